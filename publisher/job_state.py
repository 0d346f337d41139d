"""The states of a job, as a publisher reports them."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from patchline.protocol.messages import Job


class JobState(StrEnum):
    """What has become of a job."""

    CONFIRMED = "confirmed"
    SPOOLED = "spooled"
    GIVEN_UP = "given_up"
    REFUSED = "refused"


# Called with every change of a job's state, and with its reason if there is one.
OnState = Callable[[Job, JobState, str | None], None]
# Called with the first state of a job. None: it was not accepted, for the reason.
OnSettled = Callable[[Job, JobState | None, str | None], None]
