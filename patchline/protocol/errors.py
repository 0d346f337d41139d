"""What can go wrong. The class of an error is the fate of its job."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a job has no ordinary verdict: a closed set, so that it can be a metric's label."""

    MALFORMED_MESSAGE = "malformed_message"
    UNKNOWN_CATEGORY = "unknown_category"
    UNSUPPORTED_CONTENT_TYPE = "unsupported_content_type"
    UNREADABLE_IMAGE = "unreadable_image"
    IMAGE_OVER_LIMIT = "image_over_limit"
    DEVICE_FAILED = "device_failed"
    CRASHED = "crashed"
    DEADLINE_PASSED = "deadline_passed"


class PatchlineError(Exception):
    """Its text is for people: what is wrong, where, and what to do."""


class SetupError(PatchlineError):
    """A configuration, model or memory bank that cannot be used: the start stops here, with this one line."""


class JobError(PatchlineError):
    """A job that got no ordinary verdict; `stage` is where it failed, as far as the stopwatch got."""

    def __init__(self, reason: Reason, detail: str, stage: str = "receive") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.stage = stage


class Unusable(JobError):
    """This job can never be judged: answer `error` and dead-letter it."""


class DeviceLostError(PatchlineError):
    """The device failed too often: the process ends, so that its supervisor and its alerts see it."""


class Retry(JobError):
    """This job may succeed elsewhere or later: back to the queue, until its attempts are used up."""
