"""Thresholds that an engineer has moved become a version of the bank; it is activated, and rolled back."""

from __future__ import annotations

import math
from urllib.parse import urlencode

from patchline.banks import set_thresholds
from patchline.banks.versions import Versions
from patchline.console import bank_changes, bank_workers
from patchline.console.category_page import category_of, limit
from patchline.console.context import Console
from patchline.console.states import SILENT
from patchline.console.texts import mark
from patchline.console.visit import Redirect, Refused, Reply, Visit

_NONE = math.nan


def set_(console: Console, visit: Visit) -> Reply:
    """Make a version with other thresholds. Nothing serves it yet."""
    name, why = category_of(console, visit), visit.one("why")
    review, fail = limit(visit, "review", _NONE), limit(visit, "fail", _NONE)
    if math.isnan(review) or math.isnan(fail):
        raise Refused(400, mark("Both thresholds are needed."))

    def do(versions: Versions) -> str:
        base = versions.state(name).find(visit.one("version"))
        return set_thresholds.publish(versions, name, base, review, fail, visit.person.name, why)

    limits = f", review {review:g}, fail {fail:g}"
    made = bank_changes.act(console, visit, "thresholds set", name, why, do, limits)
    return _back(name, made, "made")


def activate(console: Console, visit: Visit) -> Reply:
    """Have workers serve a version."""
    name, version = category_of(console, visit), visit.one("version")
    reason = bank_changes.activate(console, visit, name, version, visit.one("why"), visit.one("seen"))
    return _back(name, version, _done(console, name, reason))


def roll_back(console: Console, visit: Visit) -> Reply:
    """Have workers serve the version before."""
    name = category_of(console, visit)
    reason = bank_changes.roll_back(console, visit, name, visit.one("why"), visit.one("seen"))
    return _back(name, "", _done(console, name, reason))


def _done(console: Console, name: str, untold: str | None) -> str:
    """Return a key of `words.DONE`. Workers that do not run cannot be told, and need not be."""
    is_heard = any(one.state != SILENT for one in bank_workers.of(console, name))
    return "activated" if untold is None else "activated-quietly" if is_heard else "activated-unheard"


def _back(name: str, version: str, done: str) -> Redirect:
    return Redirect(f"/category/{name}?" + urlencode({"version": version, "done": done} if version else {"done": done}))
