"""The images that a publisher has accepted and that have no state yet."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from patchline import config
from patchline.broker.base import NotConfirmed, Refused, TooLarge, Unroutable
from patchline.protocol.messages import Job
from patchline.publisher.job_state import OnSettled
from patchline.publisher.source import Capture


@dataclass(frozen=True)
class Limits:
    """Bounds of the window and of one image. `max_image_bytes` is the limit of the workers."""

    window: int = 16
    window_bytes: int = 64_000_000
    confirm_timeout_s: float = 5.0
    max_image_bytes: int = config.Images().max_bytes


@dataclass(eq=False)
class Item:
    """An image in the window. `confirmation` is None until it is published."""

    job: Job
    capture: Capture
    on_settled: OnSettled
    refusal: str | None = None
    confirmation: Future[None] | None = None
    published: bool = False
    retried: bool = False
    leaving: bool = False  # on its way to the spool
    due: float = 0.0

    @property
    def on_its_way(self) -> bool:
        """The image was sent and has not failed: later ones may follow it."""
        if self.confirmation is None or self.leaving:
            return False
        return not self.confirmation.done() or self.confirmation.exception() is None

    @property
    def lost(self) -> bool:
        """The channel closed before the confirmation, and the image may be sent again."""
        if self.confirmation is None or not self.confirmation.done() or self.retried:
            return False
        error = self.confirmation.exception()
        return isinstance(error, NotConfirmed) and not isinstance(error, Refused | Unroutable | TooLarge)
