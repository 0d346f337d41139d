"""The ledger of a job in plain words, in the order of time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from patchline.archive.base import Record
from patchline.archive.ledger import (
    SEEN,
    Acted,
    Announced,
    Entry,
    Found,
    Gap,
    GapKind,
    GapSearch,
    Judged,
    Ledger,
    shown_bank,
)
from patchline.archive.shadows import Shadowed
from patchline.protocol.errors import SetupError
from patchline.protocol.gate_messages import Action, ActState
from patchline.protocol.judgement_message import Label

_OUTCOMES = {
    "escaped": "escaped: it was rejected, and the sensor has not seen it in the reject bin",
    "unconfirmed": "unconfirmed: it was rejected, and nobody read the PLC while it passed the sensor",
    "diverted": "diverted: it was accepted, and the sensor saw it in the reject bin",
    "missed": "missed: the act came too late for the arm",
    "unattended": "unattended: it passed the arm before any gate could act, so the PLC has rejected it",
    "unannounced": "unannounced: the PLC saw it, and nobody announced it",
}
_GAPS = {
    GapKind.NO_ACT: "no gate has acted on it",
    GapKind.OPPOSITE_ACTS: "it was accepted and rejected",
    GapKind.NOT_PASSED: "it was accepted, and the archive has no verdict pass or review on it",
    GapKind.NOT_CONFIRMED: "it was rejected, and the sensor has not seen it in the reject bin",
}


@dataclass(frozen=True)
class Event:
    """Something that happened to a part.

    Attributes:
        at: epoch milliseconds, by the clock of the host that says so.
        event: a word for programs.
        text: for people.
        document: the message behind it, if it has one of its own.
    """

    at: int
    event: str
    text: str
    document: dict[str, Any] | None = None


@dataclass(frozen=True)
class Page:
    """The ledger of one job.

    Attributes:
        events: in the order of time.
        missing: what is missing or contradictory, in words.
    """

    job_id: str
    line: str | None
    category: str | None
    part_id: str | None
    number: int | None
    events: tuple[Event, ...]
    missing: tuple[str, ...]


def pages(archive: Ledger, name: str, now_ms: int, most: int) -> list[Page]:
    """Return the ledgers of the jobs of a part, or of the job with that id, the latest first.

    Args:
        archive: the archive.
        name: the id of the part or of the job.
        now_ms: the wall clock.
        most: the number of jobs at most.

    Raises:
        SetupError: the archive knows neither a part nor a job of this name.
        Unavailable: see `base.Archive`.
    """
    jobs = archive.jobs_of(name, most)
    if not jobs:
        raise SetupError(f"the archive knows no part and no job {name!r}")
    return [_page(archive, job_id, now_ms) for job_id in jobs]


def words(gap: Gap) -> str:
    """Return what a gap means, with what is known of it."""
    if gap.kind is GapKind.NO_ACT:
        return f"{_GAPS[gap.kind]}; its verdict is {gap.detail}" if gap.detail else f"{_GAPS[gap.kind]}; no verdict"
    return f"{_GAPS[gap.kind]}; the act: {gap.detail}"


def _page(archive: Ledger, job_id: str, now_ms: int) -> Page:
    first, entries = archive.get(job_id), archive.entries(job_id)
    verdicts = ([] if first is None else [first]) + archive.further(job_id)
    known = [*verdicts, *(entry for entry in entries if isinstance(entry, Announced | Acted))]
    missing = [] if any(isinstance(entry, Announced) for entry in entries) else ["no announcement is archived"]
    missing += [] if verdicts else ["no verdict is archived"]
    search = GapSearch(until=now_ms, job_id=job_id)
    missing += [words(gap) for kind in GapKind for gap in archive.gaps(kind, search)]
    numbers = [part.number for part in (*known, *entries) if isinstance(part, Record | Announced | Acted | Found)]
    return Page(
        job_id=job_id,
        line=next((part.line for part in known), None),
        category=next((part.category for part in known), None),
        part_id=next((part.part_id for part in known), None),
        number=next((number for number in numbers if number is not None), None),
        events=_in_order(verdicts, entries),
        missing=tuple(missing),
    )


def _in_order(verdicts: list[Record], entries: list[Entry]) -> tuple[Event, ...]:
    """What happens at the same millisecond stays in the order in which it must have happened."""
    order = ("captured", "announced", "received", "verdict", "shadow", "intended", "done", "outcome", "judgement")
    events = [*_captured(verdicts, entries), *(event for record in verdicts for event in _of_verdict(record, verdicts))]
    events += [_of_entry(entry) for entry in entries]
    return tuple(sorted(events, key=lambda event: (event.at, order.index(event.event))))


def _captured(verdicts: list[Record], entries: list[Entry]) -> Iterator[Event]:
    times = [part.captured_at for part in (*entries, *verdicts) if isinstance(part, Record | Announced)]
    known = [time for time in times if time is not None]
    if known:
        yield Event(known[0], "captured", "captured")


def _of_verdict(record: Record, verdicts: list[Record]) -> Iterator[Event]:
    yield Event(record.received_at, "received", f"taken by the worker {record.worker}")
    again = "" if record is verdicts[0] else "another "
    because = ": ".join(filter(None, (record.reason, record.detail)))
    score = "" if record.score is None else f", score {record.score:g}"
    if record.review_threshold is not None and record.fail_threshold is not None:
        fails = "never fails (a trial)" if record.is_trial else f"fails from {record.fail_threshold:g}"
        score += f", reviewed from {record.review_threshold:g}, {fails}"
    bank = record.bank_version or record.memory_bank
    by = "" if bank is None else f", bank {shown_bank(bank)}"
    replayed = ", of a replayed job" if record.replay else ""
    text = f"{again}verdict {record.decision}{score}{by}{replayed}" + (f" ({because})" if because else "")
    yield Event(record.decided_at, "verdict", text, json.loads(record.document))


def _of_entry(entry: Entry) -> Event:
    document = json.loads(entry.document)
    if isinstance(entry, Announced):
        wait_s = None if entry.deadline is None else (entry.deadline - entry.captured_at) / 1000
        due = "" if wait_s is None else f"; its verdict is due {wait_s:g} s after the capture"
        return Event(entry.announced_at, "announced", f"announced{due}", document)
    if isinstance(entry, Acted):
        stale = ", too late: it had probably left the line" if entry.stale else ""
        return Event(entry.acted_at, entry.state, f"gate {entry.gate} {_act(entry)}: {entry.because}{stale}", document)
    if isinstance(entry, Judged):
        kind = "" if entry.kind is None else f" ({entry.kind})"
        note = "" if entry.note is None else f": {entry.note}"
        said = "took the judgement back" if entry.judgement == Label.WITHDRAWN else f"judged it {entry.judgement}{kind}"
        return Event(entry.judged_at, "judgement", f"{entry.judged_by} {said}{note}", document)
    if isinstance(entry, Shadowed):
        version = entry.shadow_version[:12]
        text = f"the shadow bank {version} would have said {entry.shadow_decision}, score {entry.shadow_score:g}"
        return Event(entry.judged_at, "shadow", text, document)
    return Event(entry.found_at, "outcome", f"{_found(entry)} (gate {entry.gate})", document)


def _act(act: Acted) -> str:
    if act.state == ActState.DONE:
        return "accepted it" if act.action == Action.ACCEPT else "rejected it"
    return f"was about to {act.action} it"


def _found(found: Found) -> str:
    if found.outcome == SEEN:
        return f"the sensor saw it in the {found.bin} bin"
    return _OUTCOMES.get(found.outcome, found.outcome)
