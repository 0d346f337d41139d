"""The figures of the report on a shift, a batch or a span of time. It knows no page and no language.

What is counted: each image that was judged counts once, by its first verdict. A part of which several images are taken
counts several times. A replayed dead letter counts apart: its part has left the line long ago.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Literal

from patchline.archive.base import Record, Search
from patchline.archive.ledger import Judged, LabelSearch, Ledger
from patchline.archive.period import (
    ActCount,
    Announcements,
    OutcomeCount,
    Pause,
    PeriodIndex,
    Scope,
    VerdictCount,
    WorkerCount,
)
from patchline.archive.pictures import PictureIndex
from patchline.evaluation import intervals
from patchline.evaluation.intervals import Figure
from patchline.operations import label_rates
from patchline.operations.label_rates import LabelRates
from patchline.operations.report_changes import Changes
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Decision, Frozen

WORST, MISSED, PAUSES = 12, 8, 10  # named at most
MOST = 500_000  # verdicts, which SQLite counts in some 15 s
PAUSE_MS = 600_000
BATCH_DAYS = 30
_DAY_MS, _MINUTE_MS = 86_400_000, 60_000
_MARGIN_MS = 3_600_000  # parts of a batch are announced before their verdict, and acted on after it
_STEPS = 24  # at most
_WIDTHS_MS = tuple(minutes * _MINUTE_MS for minutes in (5, 10, 15, 30, 60, 120, 240, 480, 1440, 2880, 10_080))


class TooMuch(SetupError):
    """The database would count for too long."""


class Request(Frozen):
    """What a report is about. Times are epoch milliseconds.

    Attributes:
        name: of the shift with its day, or the beginning of the ids of a batch's parts; empty for a span of time.
    """

    kind: Literal["shift", "batch", "span"]
    name: str
    since: int
    until: int
    line: str | None = None
    category: str | None = None


class DecisionShare(Frozen):
    """How many parts had a decision, and their share of all parts with a verdict."""

    decision: str
    parts: int
    share: Figure


class ReasonCount(Frozen):
    """Why parts were not judged, or not in time."""

    line: str
    decision: str
    reason: str
    parts: int


class BankShare(Frozen):
    """What a version of a bank has said of the parts of a line and category.

    Attributes:
        failed: their share, and likewise the others.
        review_from: the lowest and the highest threshold for a review.
        fail_from: likewise.
        trial: the bank is one, and fails no part.
    """

    line: str
    category: str
    bank: str
    parts: int
    counts: dict[str, int]
    passed: Figure
    reviewed: Figure
    failed: Figure
    review_from: tuple[float, float] | None
    fail_from: tuple[float, float] | None
    first: int
    last: int
    trial: bool


class Step(Frozen):
    """What was decided in a step of time, by decision."""

    since: int
    counts: dict[str, int]


class NamedPart(Frozen):
    """A part that is shown.

    Attributes:
        trial: its bank is one, and fails no part.
        judgement: what people say; None: nobody has judged it.
        pictures: the SHA-256 of each picture that the archive has, by its kind.
    """

    job_id: str
    part_id: str
    line: str
    category: str
    bank: str
    decision: str
    score: float | None
    review_threshold: float | None
    fail_threshold: float | None
    trial: bool
    decided_at: int
    judgement: str | None
    defect_kind: str | None
    pictures: dict[str, str]


class Report(Frozen):
    """All figures.

    Attributes:
        until: the end, or the time of the figures if that is before it.
        extent: the first and the last verdict; None without any.
        parts: with a verdict, without replays.
        replays: verdicts on replayed dead letters.
        further: verdicts that differ from the first one on their job.
        gaps: jobs with something missing or contradictory, by its kind.
        labels: what the labels say, by line, category and bank.
        missed: parts that passed and that people call a defect.
    """

    request: Request
    until: int
    extent: tuple[int, int] | None
    parts: int
    decisions: tuple[DecisionShare, ...]
    reasons: tuple[ReasonCount, ...]
    banks: tuple[BankShare, ...]
    replays: int
    further: int
    step_ms: int
    steps: tuple[Step, ...]
    workers: tuple[WorkerCount, ...]
    announcements: Announcements
    acts: tuple[ActCount, ...]
    outcomes: tuple[OutcomeCount, ...]
    gaps: dict[str, int]
    labels: tuple[LabelRates, ...]
    worst: tuple[NamedPart, ...]
    missed: tuple[NamedPart, ...]
    pauses: tuple[Pause, ...]
    changes: Changes

    @property
    def digest(self) -> str:
        """The SHA-256 of the figures. Two reports with the same one say the same."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def make(
    request: Request, archive: Ledger, periods: PeriodIndex, pictures: PictureIndex, changes: Changes, now_ms: int
) -> Report:
    """Count what a request is about. `periods` and `pictures` are of the same archive, which has the judgements.

    Raises:
        Unavailable: the archive does not answer.
        SetupError: the time begins after its end, or in the future.
        TooMuch: there are more than `MOST` verdicts.
    """
    until = min(request.until, now_ms)
    if request.since >= until:
        raise SetupError("the time of the report begins after its end, or in the future")
    extent, scope, stepped = _scopes(periods, request, until)
    if periods.has_more(scope, MOST):
        raise TooMuch(f"there are more than {MOST} verdicts; choose a line, a category or a shorter time")
    counts = periods.verdicts(scope)
    judged = [count for count in counts if not count.replay]
    lines = sorted({count.line for count in counts} | ({request.line} if request.line else set()))
    width = _width(stepped.until - stepped.since)
    return Report(
        request=request,
        until=until,
        extent=extent,
        parts=sum(count.parts for count in judged),
        decisions=tuple(_decisions(judged)),
        reasons=tuple(_reasons(judged)),
        banks=tuple(_banks(judged, archive)),
        replays=sum(count.parts for count in counts if count.replay),
        further=periods.further(scope),
        step_ms=width,
        steps=tuple(_steps(periods, stepped, width)),
        workers=tuple(periods.workers(scope)),
        announcements=periods.announcements(scope),
        acts=tuple(periods.acts(scope)),
        outcomes=tuple(periods.outcomes(scope, lines)),
        gaps={str(kind): jobs for kind, jobs in periods.gaps(scope).items()},
        labels=tuple(label_rates.rates(archive.label_counts(_labelled(scope)))),
        worst=_named(archive, pictures, periods.worst(scope, WORST)),
        missed=_named(archive, pictures, periods.missed(scope, MISSED)),
        pauses=() if scope.prefix is not None else tuple(_pauses(periods, scope, lines, counts)),
        changes=changes,
    )


def _scopes(periods: PeriodIndex, request: Request, until: int) -> tuple[tuple[int, int] | None, Scope, Scope]:
    """The first and last verdict, what to count, and what the steps of time are of.

    A batch is looked for in a long time, and counted in its own.
    """
    prefix = request.name if request.kind == "batch" else None
    scope = Scope(request.since, until, request.line, request.category, prefix)
    extent = periods.extent(scope)
    if extent is None or prefix is None:
        return extent, scope, scope
    first, last = extent
    wide = replace(scope, since=max(scope.since, first - _MARGIN_MS), until=min(until, last + _MARGIN_MS))
    return extent, wide, replace(scope, since=first, until=last + 1)


def _labelled(scope: Scope) -> LabelSearch:
    return LabelSearch(scope.line, scope.category, None, scope.since, scope.until, scope.prefix)


def _decisions(counts: Iterable[VerdictCount]) -> Iterator[DecisionShare]:
    sums = Counter[str]()
    for count in counts:
        sums[count.decision] += count.parts
    known = [*Decision, *sorted(sums.keys() - set(Decision))]
    if total := sums.total():
        for decision in known:
            yield DecisionShare(decision=decision, parts=sums[decision], share=intervals.share(sums[decision], total))


def _reasons(counts: Iterable[VerdictCount]) -> Iterator[ReasonCount]:
    sums = Counter[tuple[str, str, str]]()
    for count in counts:
        if count.decision not in (Decision.PASS, Decision.REVIEW, Decision.FAIL):
            sums[count.line, count.decision, count.reason or ""] += count.parts
    for (line, decision, reason), parts in sorted(sums.items()):
        yield ReasonCount(line=line, decision=decision, reason=reason, parts=parts)


def _banks(counts: Iterable[VerdictCount], archive: Ledger) -> Iterator[BankShare]:
    groups: dict[tuple[str, str, str], list[VerdictCount]] = {}
    for count in counts:
        if count.decision in (Decision.PASS, Decision.REVIEW, Decision.FAIL):
            groups.setdefault((count.line, count.category, count.bank), []).append(count)
    for (line, category, bank), rows in sorted(groups.items()):
        sums = Counter[str]()
        for row in rows:
            sums[row.decision] += row.parts
        shares = [intervals.share(sums[name], sums.total()) for name in (Decision.PASS, Decision.REVIEW, Decision.FAIL)]
        yield BankShare(
            line=line,
            category=category,
            bank=bank,
            parts=sums.total(),
            counts=dict(sorted(sums.items())),
            passed=shares[0],
            reviewed=shares[1],
            failed=shares[2],
            review_from=_ends([(row.review_low, row.review_high) for row in rows]),
            fail_from=_ends([(row.fail_low, row.fail_high) for row in rows]),
            first=min(row.first for row in rows),
            last=max(row.last for row in rows),
            trial=_is_trial(archive, max(rows, key=lambda row: row.last)),
        )


def _is_trial(archive: Ledger, count: VerdictCount) -> bool:
    """Ask the last of some verdicts: all of a version have its thresholds."""
    search = Search(
        line=count.line,
        category=count.category,
        decisions=(count.decision,),
        bank=count.bank,
        since=count.last,
        until=count.last + 1,
        most=1,
    )
    return any(record.is_trial for record in archive.find(search))


def _ends(pairs: Iterable[tuple[float | None, float | None]]) -> tuple[float, float] | None:
    known = [value for pair in pairs for value in pair if value is not None]
    return (min(known), max(known)) if known else None


def _width(span_ms: int) -> int:
    """The shortest step that gives few enough of them."""
    return next((width for width in _WIDTHS_MS if span_ms <= width * _STEPS), -(-span_ms // _STEPS))


def _steps(periods: PeriodIndex, scope: Scope, width: int) -> Iterator[Step]:
    found: dict[int, dict[str, int]] = {}
    for count in periods.steps(scope, width):
        found.setdefault(count.step, {})[count.decision] = count.parts
    for step in range(-(-(scope.until - scope.since) // width)):
        yield Step(since=scope.since + step * width, counts=found.get(step, {}))


def _named(archive: Ledger, pictures: PictureIndex, records: list[Record]) -> tuple[NamedPart, ...]:
    said: Mapping[str, Judged] = archive.judgements_of([record.job_id for record in records])
    return tuple(_part(record, said.get(record.job_id), pictures) for record in records)


def _part(record: Record, said: Judged | None, pictures: PictureIndex) -> NamedPart:
    return NamedPart(
        job_id=record.job_id,
        part_id=record.part_id,
        line=record.line,
        category=record.category,
        bank=record.bank_version or record.memory_bank or "",
        decision=record.decision,
        score=record.score,
        review_threshold=record.review_threshold,
        fail_threshold=record.fail_threshold,
        trial=record.is_trial,
        decided_at=record.decided_at,
        judgement=None if said is None else said.judgement,
        defect_kind=None if said is None else said.kind,
        pictures={row.kind: row.digest for row in pictures.of_job(record.job_id)},
    )


def _pauses(
    periods: PeriodIndex, scope: Scope, lines: Iterable[str], counts: Iterable[VerdictCount]
) -> Iterator[Pause]:
    """Times without a verdict: between two, before the first one and after the last one, the longest first."""
    found: list[Pause] = []
    for line in lines:
        found += periods.pauses(scope, line, PAUSE_MS, PAUSES)
        times = [at for count in counts if count.line == line for at in (count.first, count.last)]
        edges = [(scope.since, min(times)), (max(times), scope.until)] if times else [(scope.since, scope.until)]
        found += [Pause(line, one, two) for one, two in edges if two - one > PAUSE_MS]
    longest = sorted(found, key=lambda one: (one.since - one.until, one.line))[:PAUSES]
    yield from sorted(longest, key=lambda one: (one.since, one.line))
