"""The accounts: administrators add, change and remove them."""

from __future__ import annotations

from collections.abc import Callable

from patchline.console import passwords
from patchline.console.accounts import ChangeRefused
from patchline.console.context import Console
from patchline.console.roles import Role
from patchline.console.texts import mark
from patchline.console.visit import Refused, Reply, Visit

_Change = Callable[[Console, Visit], str]


def show(console: Console, visit: Visit) -> Reply:
    """Show the accounts, and what can be done with the one that `name` chooses."""
    return _page(console, visit)


def change(console: Console, visit: Visit) -> Reply:
    """Add or change an account, and show what was done. A new password is shown this once."""
    if visit.one("do") not in _CHANGES:
        raise Refused(400)
    act, done = _CHANGES[visit.one("do")]
    try:
        password = act(console, visit)
    except ChangeRefused as refused:
        return _page(console, visit, problem=console.templates.say(visit, refused.text, **refused.values), status=409)
    return _page(console, visit, done=console.templates.say(visit, done, name=visit.one("name")), password=password)


def _page(
    console: Console, visit: Visit, status: int = 200, problem: str = "", done: str = "", password: str = ""
) -> Reply:
    return console.templates.render(
        "accounts.html",
        visit,
        status,
        accounts=console.accounts.all(),
        chosen=console.accounts.find(visit.one("name")),
        log_ins=console.accounts.log_ins(),
        problem=problem,
        done=done,
        password=password,
    )


def _role(visit: Visit) -> Role:
    if visit.one("role") not in list(Role):
        raise Refused(400)
    return Role(visit.one("role"))


def _add(console: Console, visit: Visit) -> str:
    password = passwords.made_up()
    console.accounts.add(visit.one("name"), _role(visit), password, visit.person.name, given=True)
    return password


def _set_role(console: Console, visit: Visit) -> str:
    console.accounts.set_role(visit.one("name"), _role(visit), visit.person.name)
    return ""


def _set_password(console: Console, visit: Visit) -> str:
    password = passwords.made_up()
    console.accounts.set_password(visit.one("name"), password, visit.person.name, given=True)
    return password


def _disable(console: Console, visit: Visit) -> str:
    console.accounts.disable(visit.one("name"), visit.person.name)
    return ""


def _enable(console: Console, visit: Visit) -> str:
    console.accounts.enable(visit.one("name"), visit.person.name)
    return ""


def _end_log_ins(console: Console, visit: Visit) -> str:
    console.accounts.end_log_ins(visit.one("name"), visit.person.name)
    return ""


def _remove(console: Console, visit: Visit) -> str:
    if visit.one("sure") != "yes":
        raise Refused(400)
    console.accounts.remove(visit.one("name"), visit.person.name)
    return ""


_CHANGES: dict[str, tuple[_Change, str]] = {
    "add": (_add, mark("%(name)s was added.")),
    "role": (_set_role, mark("%(name)s has another role.")),
    "password": (_set_password, mark("%(name)s has a new first password.")),
    "disable": (_disable, mark("%(name)s can no longer log in.")),
    "enable": (_enable, mark("%(name)s can log in again.")),
    "end": (_end_log_ins, mark("All log-ins of %(name)s have ended.")),
    "remove": (_remove, mark("%(name)s was removed.")),
}
