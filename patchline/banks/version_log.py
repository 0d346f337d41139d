"""What has happened to the versions of a category's memory bank: the audit log, and the state that follows from it.

The log is the pointer, too: whoever makes the next record has acted, and nobody else can make it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from patchline.inspection.memory_bank import Sha256
from patchline.protocol import messages
from patchline.protocol.errors import SetupError

SHORT = 12  # digits of a digest that are shown
_MIN_DIGITS = 4
_MIN_TEXT, _MAX_TEXT = 1, 500

Act = Literal["publish", "activate", "rollback", "retire"]
VersionState = Literal["active", "previous", "published", "retired"]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=_MIN_TEXT, max_length=_MAX_TEXT)]


class Record(messages.Frozen):
    """One act, as it is stored. It is never changed.

    Attributes:
        number: of the record in its category, from 1.
        after: the SHA-256 of the record before, so that a changed log shows; None for the first.
        version: the SHA-256 of the version's manifest.
        when: epoch milliseconds, by the clock of whoever acted.
        files: of a version that is published: the SHA-256 of each file by its name.
    """

    format: Literal["patchline.bank_record.v1"] = "patchline.bank_record.v1"
    number: Annotated[int, Field(ge=1)]
    after: Sha256 | None
    act: Act
    version: Sha256
    when: messages.EpochMs
    who: Text
    why: Text
    files: dict[messages.FileName, Sha256] | None = None


@dataclass(frozen=True)
class State:
    """The versions of a category after some records.

    Attributes:
        records: all of them, the oldest first.
        published: the record of each version, in order.
        served: the versions that are or were active and to which a rollback can lead; the last is active.
        retired: versions that can no longer be activated.
        digest: the SHA-256 of the last record.
    """

    records: tuple[Record, ...] = ()
    published: tuple[Record, ...] = ()
    served: tuple[str, ...] = ()
    retired: frozenset[str] = frozenset()
    digest: str | None = None

    @property
    def active(self) -> str | None:
        """The version that workers are to serve."""
        return self.served[-1] if self.served else None

    @property
    def previous(self) -> str | None:
        """The version that a rollback activates."""
        return self.served[-2] if len(self.served) > 1 else None

    def after(self, record: Record, digest: str) -> State:
        """Return the state after one more record, which has a digest."""
        published, served, retired = self.published, self.served, self.retired
        if record.act == "publish":
            published = (*published, record)
        elif record.act == "activate":
            served = (*(version for version in served if version != record.version), record.version)
        elif record.act == "rollback":
            served = served[:-1]
        else:
            served = tuple(version for version in served if version != record.version)
            retired = retired | {record.version}
        return State((*self.records, record), published, served, retired, digest)

    def state_of(self, version: str) -> VersionState:
        """Return what a version is."""
        if version in self.retired:
            return "retired"
        if version == self.active:
            return "active"
        return "previous" if version == self.previous else "published"

    def published_as(self, version: str) -> Record | None:
        """Return the record with which a version was published."""
        return next((record for record in self.published if record.version == version), None)

    def find(self, digits: str) -> str:
        """Return the published version whose digest begins with some digits.

        Raises:
            SetupError: there is none, or there are several.
        """
        found = [record.version for record in self.published if record.version.startswith(digits.lower())]
        if len(digits) >= _MIN_DIGITS and len(found) == 1:
            return found[0]
        known = ", ".join(record.version[:SHORT] for record in self.published) or "none"
        text = "is the beginning of several versions" if len(found) > 1 else "is no version of this category"
        if len(digits) < _MIN_DIGITS:
            text = f"is too short: give {_MIN_DIGITS} digits at least"
        raise SetupError(f"{digits!r} {text}; known: {known}")
