"""A person changes the own password."""

from __future__ import annotations

from patchline.console.context import Console
from patchline.console.passwords import LONGEST, SHORTEST
from patchline.console.sessions import SESSION_COOKIE
from patchline.console.texts import mark
from patchline.console.visit import Redirect, Refused, Reply, Visit


def show(console: Console, visit: Visit) -> Reply:
    """Show the form."""
    _require_a_password(console, visit)
    return _form(console, visit, 200, "")


def change(console: Console, visit: Visit) -> Reply:
    """Change the password. All log-ins of the account end, and this browser gets a new one."""
    _require_a_password(console, visit)
    name = visit.person.name
    old, new, again = (_raw(visit, field) for field in ("old", "new", "again"))
    if new != again:
        return _form(console, visit, 400, mark("The two new passwords differ."))
    if new == old:
        return _form(console, visit, 400, mark("The new password is the present one."))
    if not SHORTEST <= len(new) <= LONGEST:
        return _form(console, visit, 400, mark("A password has %(shortest)s to %(longest)s characters."))
    if not console.limit.admit(name, visit.address):
        return _form(console, visit, 429, mark("Too many attempts. Wait 15 minutes, or ask an administrator."))
    if not console.accounts.check(name, old):
        return _form(console, visit, 403, mark("The present password is wrong."))
    console.limit.forget(name, visit.address)
    console.accounts.set_password(name, new, name)
    return Redirect("/line", {SESSION_COOKIE: console.sessions.begin(name).token})


def _require_a_password(console: Console, visit: Visit) -> None:
    account = console.accounts.find(visit.person.name)
    if account is not None and account.of_provider:
        raise Refused(409, mark("The log-in service of the plant keeps your password. Change it there."))


def _form(console: Console, visit: Visit, status: int, problem: str) -> Reply:
    said = console.templates.say(visit, problem, shortest=str(SHORTEST), longest=str(LONGEST))
    return console.templates.render("password.html", visit, status, problem=said, shortest=SHORTEST, longest=LONGEST)


def _raw(visit: Visit, name: str) -> str:
    """Return a value as it was sent: spaces are part of a password."""
    return (visit.form.get(name) or ("",))[0]
