"""What people change of memory banks: the acts of `patchline banks`, by the name of an account, and in the audit log.

The store's own log has each act, too, and is what workers follow. The audit log of the console is written after it.
"""

from __future__ import annotations

from collections.abc import Callable

from patchline.banks.objects import StoreUnavailable
from patchline.banks.version_log import SHORT
from patchline.banks.versions import Versions
from patchline.console import audit
from patchline.console.context import Console
from patchline.console.texts import mark
from patchline.console.visit import Refused, Visit
from patchline.protocol.errors import SetupError

_NO_STORE = mark("There are no versions here: no store of memory banks is configured (banks.store).")
_NO_REASON = mark("Say why: the log keeps the reason.")
_NOT_DONE = mark("This was not done")
_NOT_NOW = mark("The store of memory banks cannot be used now")


def store(console: Console) -> Versions:
    """Return the store of the plant. Raises Refused: none is configured."""
    if console.banks is None:
        raise Refused(404, _NO_STORE)
    return console.banks


def activate(
    console: Console,
    visit: Visit,
    category: str,
    version: str,
    why: str,
    instead_of: str | None,
    seen: int | None = None,
) -> str | None:
    """Have workers serve a version, and tell them.

    Args:
        console: whose store it is.
        visit: of the person who acts.
        category: of the bank.
        version: its digest, or the first digits.
        why: in words.
        instead_of: the version that the person has seen as the active one; empty: none was; None: see `seen`.
        seen: how many records of the store's log the person has seen: nothing is done if others have acted since.

    Returns:
        Why workers were not told, and look by themselves a moment later; None: they were told.

    Raises:
        Refused: another version is active by now, the version cannot be activated, or the store cannot be used.
    """

    def do(versions: Versions) -> str:
        _require_active(versions, category, instead_of)
        chosen = versions.state(category).find(version)
        versions.activate(category, chosen, visit.person.name, why, instead_of or None, seen)
        return chosen

    return console.announce(category, act(console, visit, "bank activated", category, why, do))


def roll_back(
    console: Console, visit: Visit, category: str, why: str, instead_of: str | None, seen: int | None = None
) -> str | None:
    """Have workers serve the version before the active one. See `activate`."""

    def do(versions: Versions) -> str:
        _require_active(versions, category, instead_of)
        return versions.rollback(category, visit.person.name, why, seen)

    return console.announce(category, act(console, visit, "bank rolled back", category, why, do))


def retire(console: Console, visit: Visit, category: str, version: str, why: str, seen: int | None = None) -> None:
    """Have a version never activated again. Raises Refused, see `activate`."""

    def do(versions: Versions) -> str:
        chosen = versions.state(category).find(version)
        versions.retire(category, chosen, visit.person.name, why, seen)
        return chosen

    act(console, visit, "bank retired", category, why, do)


def start_shadow(
    console: Console, visit: Visit, category: str, version: str, share: float, why: str, seen: int | None = None
) -> str | None:
    """Have workers judge a share of the images by a version, too, and act on nothing of it. See `activate`."""

    def do(versions: Versions) -> str:
        chosen = versions.state(category).find(version)
        versions.shadow(category, chosen, share, visit.person.name, why, seen)
        return chosen

    return console.announce(category, act(console, visit, "shadow started", category, why, do))


def end_shadow(console: Console, visit: Visit, category: str, why: str, seen: int | None = None) -> str | None:
    """Have workers judge by the active version only. See `activate`."""

    def do(versions: Versions) -> str:
        return versions.end_shadow(category, visit.person.name, why, seen)

    return console.announce(category, act(console, visit, "shadow ended", category, why, do))


def act(
    console: Console, visit: Visit, what: str, category: str, why: str, do: Callable[[Versions], str], more: str = ""
) -> str:
    """Act on the store, and write the audit log.

    Args:
        console: whose store it is.
        visit: of the person who acts.
        what: a word of `words.CHANGES`.
        category: of the bank.
        why: in words; must not be empty.
        do: acts, and returns the version that it was about.
        more: for the audit log.

    Returns:
        That version.

    Raises:
        Refused: 400 without a reason, 409 if it is refused, 503 if the store cannot be used.
    """
    versions = store(console)
    if not why:
        raise Refused(400, _NO_REASON)
    try:
        version = do(versions)
    except StoreUnavailable as error:
        raise Refused(503, _NOT_NOW, str(error)) from error
    except SetupError as error:
        raise Refused(409, _NOT_DONE, str(error)) from error
    audit.record(console.database, visit.person.name, what, f"{category}: {version[:SHORT]}{more} ({why})")
    return version


def _require_active(versions: Versions, category: str, seen: str | None) -> None:
    """Raise SetupError if another version is active than the person has seen."""
    active = versions.state(category).active or ""
    if seen is not None and active != seen:
        raise SetupError(f"{category}: {active[:SHORT] or 'no version'} is active by now; load the page again")
