"""What was changed during the time of a report, and by whom."""

from __future__ import annotations

from patchline.banks.objects import StoreUnavailable
from patchline.banks.versions import Versions
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Frozen


class Change(Frozen):
    """A change.

    Attributes:
        at: epoch milliseconds, by the clock of who made it.
        what: a word for its kind: an act on the versions of a bank, or an entry of the console's audit log.
        of: the category, or empty.
        version: of the bank, or empty.
        detail: the reason, or what it concerns.
    """

    at: int
    who: str
    what: str
    of: str = ""
    version: str = ""
    detail: str = ""


class Changes(Frozen):
    """The changes, in the order of time, and why some are not known.

    Attributes:
        has_store: there is a store of banks, whose log was asked for.
        problem: why its log could not be read; empty if it was.
    """

    known: tuple[Change, ...] = ()
    has_store: bool = False
    problem: str = ""


def read(
    versions: Versions | None, since: int, until: int, category: str | None, others: tuple[Change, ...] = ()
) -> Changes:
    """Return the acts on banks in a span of time, from the log of their store, and other changes of the same time.

    A store that does not answer is said in the report; the rest of it is not lost for that.

    Args:
        versions: the store of the banks; None: there is none.
        since: the earliest time, in epoch milliseconds.
        until: the time before which it was.
        category: only of this one; None: of all.
        others: changes that are known already.
    """
    found, problem = [one for one in others if since <= one.at < until], ""
    if versions is None:
        return Changes(known=tuple(sorted(found, key=lambda one: one.at)))
    try:
        names = [name for name in versions.categories() if category in (None, name)]
        found += [
            Change(at=one.when, who=one.who, what=one.act, of=name, version=one.version, detail=one.why)
            for name in names
            for one in versions.state(name).records
            if since <= one.when < until
        ]
    except (StoreUnavailable, SetupError) as error:
        problem = str(error)
    return Changes(known=tuple(sorted(found, key=lambda one: one.at)), has_store=True, problem=problem)
