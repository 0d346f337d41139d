"""Memory banks: all categories; and of one its versions, and what its workers serve right now."""

from __future__ import annotations

import hashlib

from patchline.console import bank_act_page, bank_view, bank_workers
from patchline.console.context import Console
from patchline.console.visit import Answer, Reply, Visit

_SOON_S, _LATER_S = 2, 10  # between two looks of a browser: while a worker has not answered, and otherwise
_NOTHING_NEW = Answer(b"", status=204)
_LAST_ACTS = 10


def show_all(console: Console, visit: Visit) -> Reply:
    """Show the categories, and which version of each is active; or how to make a store."""
    found = {} if console.banks is None else bank_view.categories(console)
    following = {name: bank_workers.following(console, name, state) for name, state in found.items()}
    return console.templates.render(
        "banks.html", visit, has_store=console.banks is not None, categories=found, following=following
    )


def show(console: Console, visit: Visit) -> Reply:
    """Show the versions of a category and its workers; for htmx the workers, if there is anything new."""
    category = visit.names["category"]
    state = bank_view.read(console, category)
    answers = bank_workers.answers(console, category, state)
    waiting = any("waiting" in one.answer or one.shadow == "" for one in answers)
    values = {
        "category": category,
        "state": state,
        "workers": answers,
        "answers": bank_workers.ANSWERS,
        "shadow_answers": bank_workers.SHADOW_ANSWERS,
        "have": _digest(visit, state.digest, answers),
        "pause_s": _SOON_S if waiting else _LATER_S,
    }
    if visit.partial:
        is_new = visit.one("have") != values["have"]
        return console.templates.render("bank_workers.html", visit, **values) if is_new else _NOTHING_NEW
    return console.templates.render(
        "bank.html",
        visit,
        versions=bank_view.versions_of(console, category, state, bool(visit.one("all"))),
        log=state.records[-1 : -_LAST_ACTS - 1 : -1],
        has_shadow_record=any(record.act == "shadow" for record in state.records),
        poll_s=console.settings.banks.poll_s,
        done=bank_act_page.DONE,
        takes_pictures=console.hand_in is not None,
        **values,
    )


def _digest(visit: Visit, *shown: object) -> str:
    return hashlib.sha256(repr((visit.language, *shown)).encode()).hexdigest()[:16]
