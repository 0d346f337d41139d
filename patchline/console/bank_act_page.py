"""What engineers do with versions of memory banks: each act is shown with what follows from it, and confirmed."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlencode

from patchline.console import bank_changes, bank_view
from patchline.console.context import Console
from patchline.console.texts import mark
from patchline.console.visit import Answer, Redirect, Refused, Reply, Visit

TITLES = {
    "activate": mark("Activate a version"),
    "rollback": mark("Roll back"),
    "shadow": mark("Make a version the shadow"),
    "end-shadow": mark("End the shadow"),
    "retire": mark("Retire a version"),
}
DONE = {
    "activate": mark("The version is active. Workers check it and switch; their answers are below."),
    "rollback": mark("The previous version is active again. Workers check it and switch; their answers are below."),
    "shadow": mark("The version is the shadow. Workers load it; their answers are below."),
    "end-shadow": mark("The version is no shadow any more."),
    "retire": mark("The version is retired."),
}


def ask(console: Console, visit: Visit) -> Reply:
    """Show what an act would do, with the form that confirms it."""
    return _form(console, visit, 200, "")


def do(console: Console, visit: Visit) -> Reply:
    """Act, and show what the workers answer. If it is refused, show why, and what is active by now."""
    category = visit.names["category"]
    bank_view.read(console, category)
    try:
        untold = _act(console, visit, category)
    except Refused as refused:
        return _form(console, visit, refused.status, console.templates.explain(visit, refused))
    told = {} if untold is None else {"untold": "1"}
    return Redirect(f"/banks/{category}?{urlencode({'done': visit.one('act')} | told)}")


def _act(console: Console, visit: Visit, category: str) -> str | None:
    """Do what the form says. Return why workers were not told, or None."""
    version, why, seen = visit.one("version"), visit.one("why"), _number(visit.one("seen"))
    common = console, visit, category
    acts: dict[str, Callable[[], str | None]] = {
        "activate": lambda: bank_changes.activate(*common, version, why, None, seen),
        "rollback": lambda: bank_changes.roll_back(*common, why, None, seen),
        "shadow": lambda: bank_changes.start_shadow(*common, version, _share(visit.one("percent")), why, seen),
        "end-shadow": lambda: bank_changes.end_shadow(*common, why, seen),
        "retire": lambda: bank_changes.retire(*common, version, why, seen),
    }
    return acts[_named(visit)]()


def _form(console: Console, visit: Visit, status: int, problem: str) -> Answer:
    category, act = visit.names["category"], _named(visit)
    state = bank_view.read(console, category)
    about = {"rollback": state.previous, "end-shadow": None if state.shadow is None else state.shadow.version}
    digest = about.get(act, visit.one("version"))
    active = None if state.active is None else bank_view.version(console, category, state, state.active)
    return console.templates.render(
        "bank_act.html",
        visit,
        status,
        category=category,
        act=act,
        title=TITLES[act],
        problem=problem,
        seen=len(state.records),
        version=bank_view.version(console, category, state, digest) if digest else None,
        active=active,
        shadow=state.shadow,
        percent=visit.one("percent") or "100",
    )


def _named(visit: Visit) -> str:
    act = visit.one("act")
    if act not in TITLES:
        raise Refused(400, mark("There is no such act."), act)
    return act


def _number(text: str) -> int:
    """Return how much of the log the person has seen. A form without it has seen nothing."""
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _share(text: str) -> float:
    try:
        share = float(text) / 100
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise Refused(400, mark("The share of the images is above 0 % and at most 100 %."))
    return share
