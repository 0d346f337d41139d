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

Act = Literal["publish", "activate", "rollback", "retire", "shadow", "end-shadow"]
VersionState = Literal["active", "previous", "shadow", "published", "retired"]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=_MIN_TEXT, max_length=_MAX_TEXT)]


class Record(messages.Frozen):
    """One act, as it is stored. It is never changed.

    Attributes:
        number: of the record in its category, from 1.
        after: the SHA-256 of the record before, so that a changed log shows; None for the first.
        version: the SHA-256 of the version's manifest.
        when: epoch milliseconds, by the clock of whoever acted.
        files: of a version that is published: the SHA-256 of each file by its name.
        share: of the images that a shadow judges.
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
    share: Annotated[float, Field(gt=0, le=1)] | None = None


@dataclass(frozen=True)
class Shadow:
    """A version that judges beside the active one, and whose judgements nobody acts on.

    Attributes:
        share: of the images, above 0 and at most 1.
    """

    version: str
    share: float


@dataclass(frozen=True)
class State:
    """The versions of a category after some records.

    Attributes:
        records: all of them, the oldest first.
        published: the record of each version, in order.
        served: the versions that are or were active and to which a rollback can lead; the last is active.
        retired: versions that can no longer be activated.
        digest: the SHA-256 of the last record.
        shadow: the version that judges beside the active one.
    """

    records: tuple[Record, ...] = ()
    published: tuple[Record, ...] = ()
    served: tuple[str, ...] = ()
    retired: frozenset[str] = frozenset()
    digest: str | None = None
    shadow: Shadow | None = None

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
        published, served, retired, shadow = self.published, self.served, self.retired, self.shadow
        if record.act == "publish":
            published = (*published, record)
        elif record.act == "activate":
            served = (*(version for version in served if version != record.version), record.version)
        elif record.act == "rollback":
            served = served[:-1]
        elif record.act == "shadow":
            shadow = Shadow(record.version, record.share or 1.0)
        elif record.act == "end-shadow":
            shadow = None
        else:
            served = tuple(version for version in served if version != record.version)
            retired = retired | {record.version}
        if shadow is not None and served and shadow.version == served[-1]:  # it serves now
            shadow = None
        return State((*self.records, record), published, served, retired, digest, shadow)

    def state_of(self, version: str) -> VersionState:
        """Return what a version is."""
        if version in self.retired:
            return "retired"
        if version == self.active:
            return "active"
        if self.shadow is not None and version == self.shadow.version:
            return "shadow"
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
