"""What each worker of a category says: which version it serves, and how it has answered the last activation."""

from __future__ import annotations

from dataclasses import dataclass

from patchline.banks import reports
from patchline.banks.reports import Report
from patchline.banks.version_log import Act, State
from patchline.console import bank_changes
from patchline.console.context import Console
from patchline.console.states import SILENT, Process
from patchline.console.texts import mark
from patchline.console.visit import Refused
from patchline.protocol.errors import SetupError

_CLOCKS_MS = 60_000  # as far as the clocks of workers and of whoever acts may differ
ANSWERS = {
    "serving": mark("serves it"),
    "refused": mark("keeps its previous version"),
    "waiting": mark("has not answered yet"),
    "silent": mark("says nothing"),
    "own": mark("serves the bank of its host: no version is active"),
}
SHADOW_ANSWERS = {
    "shadow": mark("judges by the shadow, too"),
    "shadow refused": mark("cannot load the shadow"),
    "": mark("has not answered yet"),
}


@dataclass(frozen=True)
class Worker:
    """A worker that serves a category.

    Attributes:
        serves: the digest of the version that it serves, as its last status says.
        answer: a key of `ANSWERS`.
        reason: why it has refused the active version.
        at: when it answered, in epoch milliseconds by its clock; None: it has not written that into the store.
        shadow: a key of `SHADOW_ANSWERS`; None: there is no shadow.
        shadow_reason: why it cannot load it.
    """

    name: str
    host: str
    serves: str
    answer: str
    reason: str = ""
    at: int | None = None
    shadow: str | None = None
    shadow_reason: str = ""


def of(console: Console, category: str) -> list[Process]:
    """Return the processes that serve a category, or did when they were heard last."""
    return [one for one in console.states.all() if one.role == "worker" and category in one.banks]


def answers(console: Console, category: str, state: State) -> list[Worker]:
    """Return the workers of a category, by their names.

    What a worker serves is in its status. Why it does not serve the active version is in its report, if its user may
    write to the store.

    Raises:
        Refused: the store cannot be read.
    """
    said = _reports(console, category, state)
    return [_worker(one, category, state, said) for one in of(console, category)]


def following(console: Console, category: str, state: State) -> tuple[int, int]:
    """Return how many workers serve the active version, and how many serve the category and can be heard."""
    heard = [one.banks[category] for one in of(console, category) if one.state != SILENT]
    return sum(version == state.active for version in heard), len(heard)


def _worker(one: Process, category: str, state: State, said: list[Report]) -> Worker:
    serves, shadow = one.banks[category], state.shadow
    activated = [report for report in said if report.when >= _since(state, ("activate", "rollback"))]
    active = _last(activated, one.name, state.active, ("serving", "refused"))
    answer = "own" if state.active is None else "serving" if serves == state.active else "waiting"
    if answer == "waiting" and active is not None and active.state == "refused":
        answer = "refused"
    answer = SILENT if one.state == SILENT else answer
    beside = None if shadow is None else _last(said, one.name, shadow.version, ("shadow", "shadow refused"))
    return Worker(
        one.name,
        one.host,
        serves,
        answer,
        reason="" if active is None or answer != "refused" else active.reason,
        at=None if active is None or answer != active.state else active.when,
        shadow=None if shadow is None else "" if beside is None else beside.state,
        shadow_reason="" if beside is None else beside.reason,
    )


def _reports(console: Console, category: str, state: State) -> list[Report]:
    """Return what workers have said since the active version and the shadow were named."""
    acts: list[tuple[Act, ...]] = [("activate", "rollback")]
    acts += [] if state.shadow is None else [("shadow",)]
    try:
        contents = bank_changes.store(console).reports(category, min(_since(state, some) for some in acts))
    except SetupError as error:
        raise Refused(503, mark("The store of memory banks cannot be read"), str(error)) from error
    return [report for content in contents if (report := reports.parse(content)) is not None]


def _since(state: State, acts: tuple[Act, ...]) -> int:
    """Return from when on answers to the last of some acts may come, in epoch milliseconds of any host."""
    return next((record.when - _CLOCKS_MS for record in reversed(state.records) if record.act in acts), 0)


def _last(said: list[Report], worker: str, version: str | None, states: tuple[str, ...]) -> Report | None:
    """Return the last report of a worker on a version."""
    of_it = (one for one in said if (one.worker, one.version) == (worker, version) and one.state in states)
    return max(of_it, key=lambda one: one.when, default=None)
