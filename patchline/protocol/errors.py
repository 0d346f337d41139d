"""The errors. The class of an error decides what happens to its job."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Reason(StrEnum):
    """Why a job failed or expired. A closed set: the label of a metric."""

    MALFORMED_MESSAGE = "malformed_message"
    UNKNOWN_CATEGORY = "unknown_category"
    UNSUPPORTED_CONTENT_TYPE = "unsupported_content_type"
    UNREADABLE_IMAGE = "unreadable_image"
    IMAGE_OVER_LIMIT = "image_over_limit"
    NO_IMAGE = "no_image"
    DEVICE_FAILED = "device_failed"
    CRASHED = "crashed"
    DEADLINE_PASSED = "deadline_passed"


class PatchlineError(Exception):
    """An error with a text for the user: what is wrong, where, and what to do. `exit_code` is that of the command."""

    exit_code = 2


class SetupError(PatchlineError):
    """A configuration, model or memory bank cannot be used. The command ends with this text."""


class UnreadableError(SetupError):
    """An image file cannot be decoded."""


class MismatchError(SetupError):
    """A model, its `.om` and a memory bank do not belong together, so that another start ends the same.

    The code is that of sysexits.h for a configuration error. Supervisors leave such a process ended.
    """

    exit_code = 78


class DamagedError(SetupError):
    """A file of the process is damaged, and going on with the rest of it is not safe or not possible.

    The code is that of sysexits.h for a configuration error: a person must look at the file first.
    """

    exit_code = 78


class DiskFull(SetupError):
    """A disk has no room for what is to be written."""


class OutliersError(SetupError):
    """The command did its work, and found images that a person must look at. It ends with this text."""

    exit_code = 1


class IncompleteError(SetupError):
    """The command gave its answer without a part of what it asked, and names that part. It ends with this text."""

    exit_code = 1


class JobError(PatchlineError):
    """A job failed. `stage` is the name of the stage in which it failed."""

    def __init__(self, reason: Reason, detail: str, stage: str = "receive") -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.stage = stage


class Unusable(JobError):
    """The job can never succeed: dead-letter it and publish the decision `error`."""


class DeviceLostError(PatchlineError):
    """The device failed too often. The process exits, and its supervisor restarts it."""


class DeviceStuckError(DeviceLostError):
    """A process of the device cannot be ended: it sleeps in the driver. Another one would do the same.

    A worker stays, without jobs, until `is_over` returns True.
    """

    def __init__(self, text: str, is_over: Callable[[], bool]) -> None:
        super().__init__(text)
        self.is_over = is_over


class Retry(JobError):
    """The job may succeed elsewhere or later: try again, up to `broker.max_attempts` times."""
