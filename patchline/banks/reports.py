"""What a worker says of a version, kept in the store: when it has switched to it, or why it cannot."""

from __future__ import annotations

import secrets
from typing import Literal

import pydantic

from patchline.inspection.memory_bank import Sha256
from patchline.protocol import messages

State = Literal["serving", "refused", "shadow", "shadow refused"]


class Report(messages.Frozen):
    """One report. `worker` is `HOST:DEVICE:PROCESS`, `when` epoch milliseconds by the clock of its host."""

    format: Literal["patchline.bank_report.v1"] = "patchline.bank_report.v1"
    worker: str
    version: Sha256
    state: State
    reason: str = ""
    when: messages.EpochMs

    def to_json(self) -> bytes:
        """The file of the report."""
        return self.model_dump_json().encode() + b"\n"


def name_of(report: Report) -> str:
    """A name that no other report has. Names sort by time."""
    return f"{report.when}-{secrets.token_hex(6)}.json"


def said_at(name: str) -> int:
    """Return the time in the name of a report, in epoch milliseconds; 0 if it has none."""
    digits = name.partition("-")[0]
    return int(digits) if digits.isascii() and digits.isdigit() else 0


def parse(content: bytes) -> Report | None:
    """Read a report; None if it is damaged or of a later build."""
    try:
        return Report.model_validate_json(content, extra=messages.UNKNOWN_FIELDS)
    except pydantic.ValidationError:
        return None
