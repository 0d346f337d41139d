"""Logging in and out."""

from __future__ import annotations

import hmac
import secrets

from patchline.console import audit
from patchline.console.context import Console
from patchline.console.metrics import LogInRefusal
from patchline.console.sessions import SESSION_COOKIE
from patchline.console.texts import mark
from patchline.console.visit import Answer, Redirect, Refused, Reply, Visit

_FORM_COOKIE = "patchline_form"  # there is no log-in yet whose token the form could send
_LONGEST_NAME = 63
_LOST = mark("Your log-in had ended, so nothing was sent. Log in, and send it again.")


def show(console: Console, visit: Visit) -> Reply:
    """Show the form. Who has sent something after the end of a log-in is told that it was not taken."""
    return form(console, visit, 200, _LOST if visit.one("lost") else "")


def log_in(console: Console, visit: Visit) -> Reply:
    """Begin a log-in, if name and password are right. A form that comes twice begins one."""
    sent, expected = visit.one("csrf"), visit.cookies.get(_FORM_COOKIE, "")
    if not expected or not hmac.compare_digest(sent.encode(), expected.encode()):
        # The form came twice, and the first one has logged in. One of somebody else is older: who sends it must not go
        # on as the person who uses this browser now.
        if visit.session is not None and visit.session.name == visit.one("name")[:_LONGEST_NAME]:
            return Redirect(local(visit.one("to")))
        return form(console, visit, 403, mark("The form was too old. Try again."))
    return console.log_ins.answer(visit, lambda: _begin(console, visit))


def _begin(console: Console, visit: Visit) -> Reply:
    name, password = visit.one("name")[:_LONGEST_NAME], (visit.form.get("password") or ("",))[0]
    if not console.limit.admit(name, visit.address):
        console.metrics.log_in_refused(LogInRefusal.LIMIT)
        return form(console, visit, 429, mark("Too many attempts. Wait 15 minutes, or ask an administrator."))
    if not console.accounts.check(name, password):
        console.metrics.log_in_refused(LogInRefusal.WRONG)
        audit.record(console.database, name, "log-in refused", f"from {visit.address}")
        return form(console, visit, 403, mark("Name or password is wrong."))
    console.limit.forget(name, visit.address)
    account = console.accounts.find(name)
    if account is None or account.disabled:
        console.metrics.log_in_refused(LogInRefusal.DISABLED)
        audit.record(console.database, name, "log-in refused", f"the account is disabled, from {visit.address}")
        return form(console, visit, 403, mark("This account is disabled. Ask an administrator."))
    session = console.sessions.begin(name)
    return Redirect(local(visit.one("to")), {SESSION_COOKIE: session.token, _FORM_COOKIE: ""})


def log_out(console: Console, visit: Visit) -> Reply:
    """End the log-in."""
    account = console.accounts.find(visit.person.name)
    console.sessions.end(visit.person)
    is_of_provider = account is not None and account.of_provider
    return Redirect("/login?out=1" if is_of_provider else "/login", {SESSION_COOKIE: ""})


def form(console: Console, visit: Visit, status: int, problem: str, detail: str = "") -> Answer:
    """Return the form, with what is wrong, and what a program says of it."""
    token = secrets.token_urlsafe(24)
    said = console.templates.explain(visit, Refused(status, problem, detail)) if problem else ""
    values = {"problem": said, "csrf": token, "to": local(visit.one("to"))}
    answer = console.templates.render(
        "login.html", visit, status, name=visit.one("name"), provider=console.provider, **values
    )
    return Answer(answer.body, status=status, cookies={_FORM_COOKIE: token})


def local(path: str) -> str:
    """Return a path of these pages, whatever a link says."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if is_local else "/"
