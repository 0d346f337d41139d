"""Pictures of the archive for a lesson: of parts that passed, or that people call good or a defect."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from patchline.archive.base import Record, Search
from patchline.archive.ledger import Judged, Ledger
from patchline.archive.pictures import PictureIndex
from patchline.archive.store import Store
from patchline.console import lessons
from patchline.protocol import picture_message
from patchline.protocol.judgement_message import Label
from patchline.protocol.messages import Decision

_PAGE, _MOST_PAGES = 200, 50  # a look at 10,000 verdicts at most
_DEFECT = "defect"  # the kind of a defect whose name cannot be that of a folder


class Kind(StrEnum):
    """Which parts: those that people call good, those that passed and that nobody calls a defect, or defects."""

    GOOD = "good"
    PASSED = "passed"
    DEFECT = "defect"


@dataclass(frozen=True)
class Wanted:
    """Parts of a category whose verdicts are of a time, the latest first. Times are in epoch milliseconds."""

    category: str
    kind: Kind
    since: int | None
    until: int | None
    most: int


@dataclass(frozen=True)
class Archived:
    """A picture: a name for its file, its kind as in a lesson, and its content; None if the store has lost it."""

    name: str
    kind: str
    body: bytes | None


def find(archive: Ledger, pictures: PictureIndex, store: Store, wanted: Wanted) -> Iterator[Archived]:
    """Yield the pictures of parts, as they were captured.

    Raises:
        Unavailable: the archive does not answer.
        StoreUnavailable: nor does the store of its pictures.
    """
    found = 0
    for record, kind in _parts(archive, wanted):
        rows = [row for row in pictures.of_job(record.job_id) if row.kind == picture_message.IMAGE]
        if rows:
            yield Archived(record.part_id, kind, store.get(rows[0].digest))
            found += 1
        if found == wanted.most:
            return


def _parts(archive: Ledger, wanted: Wanted) -> Iterator[tuple[Record, str]]:
    before = None
    decisions = (Decision.PASS,) if wanted.kind is Kind.PASSED else ()
    for _ in range(_MOST_PAGES):
        search = Search(
            category=wanted.category,
            decisions=decisions,
            since=wanted.since,
            until=wanted.until,
            before=before,
            most=_PAGE,
        )
        page = list(archive.find(search))
        judged = archive.judgements_of([record.job_id for record in page])
        for record in page:
            kind = _kind(wanted.kind, judged.get(record.job_id))
            if kind is not None:
                yield record, kind
        if len(page) < _PAGE:
            return
        before = (page[-1].decided_at, page[-1].job_id)


def _kind(wanted: Kind, said: Judged | None) -> str | None:
    """Return the kind of a part in a lesson; None if it is not wanted."""
    label = None if said is None else said.judgement
    if wanted is Kind.DEFECT and said is not None and label == Label.DEFECT:
        return said.kind if said.kind is not None and lessons.is_kind(said.kind) else _DEFECT
    is_good = label == Label.GOOD if wanted is Kind.GOOD else label in (None, Label.GOOD, Label.WITHDRAWN)
    return lessons.GOOD if wanted is not Kind.DEFECT and is_good else None
