"""The publisher sends captured images to RabbitMQ as jobs."""

from patchline.publisher.client import Client, NotAcceptedError, Receipt
from patchline.publisher.job_state import JobState

__all__ = ["Client", "JobState", "NotAcceptedError", "Receipt"]
