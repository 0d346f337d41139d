"""The ledger of a job as events, whose texts are translated on the page."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from patchline.archive.base import Record
from patchline.archive.ledger import Acted, Announced, Entry, Judged
from patchline.archive.shadows import Shadowed
from patchline.banks.version_log import SHORT
from patchline.console import words
from patchline.console.texts import mark
from patchline.protocol.gate_messages import Action, ActState

_ACTS = {
    (Action.ACCEPT, ActState.DONE): mark("gate %(gate)s accepted it: %(because)s"),
    (Action.REJECT, ActState.DONE): mark("gate %(gate)s rejected it: %(because)s"),
    (Action.ACCEPT, ActState.INTENDED): mark("gate %(gate)s was about to accept it: %(because)s"),
    (Action.REJECT, ActState.INTENDED): mark("gate %(gate)s was about to reject it: %(because)s"),
}
_STALE = {
    (Action.ACCEPT, ActState.DONE): mark("gate %(gate)s accepted it too late, it had probably left: %(because)s"),
    (Action.REJECT, ActState.DONE): mark("gate %(gate)s rejected it too late, it had probably left: %(because)s"),
}
_ORDER = ("captured", "announced", "received", "verdict", "shadow", "intended", "done", "outcome", "judgement")


@dataclass(frozen=True)
class Event:
    """Something that happened to a part.

    Attributes:
        at: epoch milliseconds, by the clock of the host that says so.
        kind: a word for programs.
        text: to be translated, with places for values.
        values: of these places.
        words: values that are translated, too.
    """

    at: int
    kind: str
    text: str
    values: dict[str, str] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)


def events(verdicts: list[Record], entries: list[Entry]) -> list[Event]:
    """Return what happened to the part of a job, in the order of time.

    Args:
        verdicts: the first one, then those that differ from it.
        entries: of its ledger.
    """
    found = [*_captured(verdicts, entries), *(event for record in verdicts for event in _of_verdict(record))]
    found += [_of_entry(entry) for entry in entries]
    return sorted(found, key=lambda event: (event.at, _ORDER.index(event.kind)))


def _captured(verdicts: list[Record], entries: list[Entry]) -> Iterator[Event]:
    captured = [one.captured_at for one in (*entries, *verdicts) if isinstance(one, Record | Announced)]
    known = [at for at in captured if at is not None]
    if known:
        yield Event(known[0], "captured", mark("the picture was taken"))


def _of_verdict(record: Record) -> Iterator[Event]:
    yield Event(record.received_at, "received", mark("worker %(worker)s took it"), {"worker": record.worker})
    values = {"score": "–" if record.score is None else f"{record.score:.4g}"}
    said = {"decision": words.DECISIONS.get(record.decision, record.decision)}
    yield Event(record.decided_at, "verdict", mark("verdict %(decision)s, score %(score)s"), values, said)


def _of_entry(entry: Entry) -> Event:
    if isinstance(entry, Announced):
        return Event(entry.announced_at, "announced", mark("the part was announced"))
    if isinstance(entry, Acted):
        texts = _STALE if entry.stale and entry.state == ActState.DONE else _ACTS
        text = texts[Action(entry.action), ActState(entry.state)]
        return Event(entry.acted_at, entry.state, text, {"gate": entry.gate, "because": entry.because})
    if isinstance(entry, Judged):
        return _judged(entry)
    if isinstance(entry, Shadowed):
        text = mark("the shadow bank %(bank)s would have said %(decision)s, score %(score)s")
        values = {"bank": entry.shadow_version[:SHORT], "score": f"{entry.shadow_score:.4g}"}
        said = {"decision": words.DECISIONS.get(entry.shadow_decision, entry.shadow_decision)}
        return Event(entry.judged_at, "shadow", text, values, said)
    text = words.OUTCOMES.get(entry.outcome, "%(outcome)s")
    return Event(entry.found_at, "outcome", text, {"bin": entry.bin or "–", "outcome": entry.outcome})


def _judged(entry: Judged) -> Event:
    details = ", ".join(filter(None, (entry.kind, entry.note)))
    text = mark("%(who)s: %(judgement)s (%(details)s)") if details else mark("%(who)s: %(judgement)s")
    values = {"who": entry.judged_by, "details": details}
    said = {"judgement": words.LABELS.get(entry.judgement, entry.judgement)}
    return Event(entry.judged_at, "judgement", text, values, said)
