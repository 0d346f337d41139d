"""The ledger of a part: all that is known of it beside its verdict, and what is missing or in contradiction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from patchline.archive.base import Archive, Record, Saved, Unreadable
from patchline.archive.scores import BankUse, ScoreCounts, ScoreSearch
from patchline.archive.shadows import ShadowCount, Shadowed, ShadowSearch
from patchline.protocol.judgement_message import Label

SEEN = "seen"  # the outcome of a part that the sensor saw
# Outcomes that only a line with a sensor behind its arm has.
OF_A_SENSOR = (SEEN, "escaped", "unconfirmed", "diverted")


@dataclass(frozen=True, slots=True)
class Announced:
    """An announcement as a row. Times are epoch milliseconds.

    Attributes:
        announced_at: the time of sending; of an earlier build, which does not say it, that of the capture.
        archived_at: when the archive has received it.
        document: the headers of the message as JSON.
    """

    job_id: str
    line: str
    category: str
    part_id: str
    number: int | None
    captured_at: int
    announced_at: int
    deadline: int | None
    archived_at: int
    document: str


@dataclass(frozen=True, slots=True)
class Acted:
    """An act of a gate as a row: `intended`, or `done`.

    Attributes:
        stale: the part had probably left the line.
        document: the message, as it came.
        digest: SHA-256 of the document.
    """

    job_id: str
    line: str
    category: str
    part_id: str
    number: int | None
    action: str
    state: str
    because: str
    stale: bool
    gate: str
    acted_at: int
    archived_at: int
    document: str
    digest: str


@dataclass(frozen=True, slots=True)
class Found:
    """An outcome, or a confirmation, as a row.

    Attributes:
        outcome: as in the message of an outcome, or `seen`.
        bin: where the sensor saw the part.
    """

    job_id: str
    line: str
    number: int
    outcome: str
    bin: str | None
    gate: str
    found_at: int
    archived_at: int
    document: str
    digest: str


@dataclass(frozen=True, slots=True)
class Judged:
    """A re-judgement as a row.

    Attributes:
        judged_at: as the message says, but not later than its arrival: a clock that is ahead must not win for long.
    """

    job_id: str
    judgement: str
    kind: str | None
    judged_by: str
    note: str | None
    judged_at: int
    archived_at: int
    document: str
    digest: str


Entry = Announced | Acted | Found | Judged | Shadowed


class GapKind(StrEnum):
    """What may be missing or contradictory in the ledger of a part."""

    NO_ACT = "no-act"
    OPPOSITE_ACTS = "opposite-acts"
    NOT_PASSED = "accepted-without-pass"
    NOT_CONFIRMED = "not-confirmed"


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that is missing or contradictory in the ledger of a job.

    Attributes:
        at: of `no-act` the time of the announcement, otherwise that of the act.
        detail: of `no-act` the decision of the verdict, or None without a verdict; otherwise the reason of the act.
    """

    kind: GapKind
    job_id: str
    line: str
    category: str
    part_id: str
    number: int | None
    at: int
    detail: str | None


@dataclass(frozen=True, slots=True)
class GapSearch:
    """Where to look for gaps. None does not restrict. Times are epoch milliseconds.

    Attributes:
        until: the time before which a part must have been announced and due, or acted on.
        most: the number of gaps at most.
    """

    until: int
    since: int | None = None
    line: str | None = None
    job_id: str | None = None
    most: int | None = None


@dataclass(frozen=True, slots=True)
class LabelSearch:
    """Which verdicts to compare with judgements. None does not restrict.

    Attributes:
        bank: as in `base.Search`.
        since: the earliest time of the decision, in epoch milliseconds.
        until: the time before which it was made.
        prefix: the beginning of the ids of the parts.
    """

    line: str | None = None
    category: str | None = None
    bank: str | None = None
    since: int | None = None
    until: int | None = None
    prefix: str | None = None


@dataclass(frozen=True, slots=True)
class Count:
    """How many parts had a decision, and what people call them.

    Attributes:
        bank: its version; of verdicts that do not say it, its name.
        judgement: the newest one; None of the parts that nobody has judged.
    """

    line: str
    category: str
    bank: str
    decision: str
    judgement: str | None
    parts: int


@dataclass(frozen=True, slots=True)
class LabelledScore:
    """The score of a part that somebody has judged.

    Attributes:
        memory_bank: the name of the bank. Scores of one index can be compared, whatever its thresholds.
    """

    memory_bank: str
    score: float
    decision: str
    judgement: str


class Ledger(Archive, Protocol):
    """An archive that also keeps the ledger of each part. All methods raise Unavailable."""

    def save_ledger(self, entries: list[Entry], unreadable: list[Unreadable]) -> Saved:
        """Store a batch in one transaction, as `save` does. What is there already is left as it is.

        A job has one announcement and one row for each shadow, the first ones. The same act, outcome or judgement that
        comes again changes nothing.

        Raises:
            Unstorable: something in it can never be stored.
        """
        ...

    def jobs_of(self, name: str, most: int) -> list[str]:
        """Return the jobs of a part, or the job with that id, the latest first, `most` at the most."""
        ...

    def entries(self, job_id: str) -> list[Entry]:
        """Return what is known of a job beside its verdicts, in the order of arrival."""
        ...

    def judgements_of(self, job_ids: Sequence[str]) -> dict[str, Judged]:
        """Return the judgement that counts of each of some jobs that somebody has judged."""
        ...

    def gaps(self, kind: GapKind, search: GapSearch) -> Iterator[Gap]:
        """Yield the jobs with a gap, the latest first. See `docs/operations.md` for what each kind means."""
        ...

    def label_counts(self, search: LabelSearch) -> list[Count]:
        """Return how many parts passed, were reviewed or failed, by what people call them.

        Only first verdicts with a score count, and none of replayed jobs.
        """
        ...

    def labelled_scores(self, search: LabelSearch) -> list[LabelledScore]:
        """Return the scores of the parts that people call good or a defect. The same verdicts count."""
        ...

    def score_counts(self, search: ScoreSearch) -> ScoreCounts:
        """Count the scores of parts in steps, by decision and by what people call them. The same verdicts count.

        A judgement that is more than a day older than `search.since` does not count.
        """
        ...

    def banks_of(self, category: str, most: int) -> list[BankUse]:
        """Return the banks that have judged parts of a category, the one with the latest verdict first.

        Of more than `most` banks, those whose names come first are returned.
        """
        ...

    def shadow_counts(self, search: ShadowSearch) -> list[ShadowCount]:
        """Return how many parts had each pair of decisions, of the verdict and of a shadow."""
        ...

    def shadow_time(self, search: ShadowSearch, number: int) -> int | None:
        """Return when the shadow judged the part that is the `number`-th from the latest one; None: there are fewer.

        It is quick for any number of parts, so that a page can bound what it reads.
        """
        ...

    def shadow_differences(self, search: ShadowSearch) -> Iterator[Shadowed]:
        """Yield the parts on which verdict and shadow have different decisions, the latest first."""
        ...


def shown_bank(bank: str) -> str:
    """Return a bank for people: the first digits of a version, or its name."""
    return bank if "@" in bank else bank[:12]


def judged(record: Record) -> bool:
    """Return True if a verdict counts for rates: its bank has judged a part of the line."""
    return record.score is not None and record.memory_bank is not None and not record.replay


def newest(judgements: Iterable[Judged]) -> Judged:
    """Return the judgement that counts: the newest one that its person has not taken back, if there is one."""
    given = list(judgements)
    taken = [one for one in given if one.judgement == Label.WITHDRAWN]

    def stands(one: Judged) -> bool:
        back = any(mine.judged_by == one.judged_by and mine.judged_at >= one.judged_at for mine in taken)
        return one.judgement != Label.WITHDRAWN and not back

    return max(given, key=lambda one: (stands(one), one.judged_at, one.archived_at, one.digest))


def newest_of_each(judgements: Iterable[Judged]) -> dict[str, Judged]:
    """Return the judgement that counts of each job."""
    by_job: dict[str, list[Judged]] = {}
    for one in judgements:
        by_job.setdefault(one.job_id, []).append(one)
    return {job_id: newest(given) for job_id, given in by_job.items()}
