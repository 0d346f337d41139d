"""Logging in at the log-in service of a plant, and out there."""

from __future__ import annotations

from patchline.console import audit, login_page
from patchline.console.accounts import ChangeRefused, Disabled
from patchline.console.context import Console
from patchline.console.metrics import LogInRefusal
from patchline.console.provider import LogInRefused, Provider, ProviderAway
from patchline.console.sessions import SESSION_COOKIE
from patchline.console.texts import mark
from patchline.console.visit import Redirect, Refused, Reply, Visit

_COOKIE = "patchline_oidc"
_AWAY = mark("The log-in service of the plant does not answer. Accounts with a password of the console work.")
_WHO = "log-in service"


def begin(console: Console, visit: Visit) -> Reply:
    """Send the browser to the log-in service."""
    provider = _provider(console)
    if not console.rates.admit(f"address {visit.address}", "POST", False):
        console.metrics.log_in_refused(LogInRefusal.LIMIT)
        raise Refused(429, mark("Too much at once. Wait a few seconds, and load the page again."))
    try:
        begun = provider.begin()
    except ProviderAway as error:
        return login_page.form(console, visit, 503, _AWAY, str(error))
    token = console.waiting.add(console.now_ms(), begun, login_page.local(visit.one("to")))
    return Redirect(begun.url, {_COOKIE: token}, away=True)


def finish(console: Console, visit: Visit) -> Reply:
    """Begin a log-in of the console for the person whom the log-in service names."""
    provider = _provider(console)
    waiting = console.waiting.take(console.now_ms(), visit.cookies.get(_COOKIE, ""))
    if waiting is None:
        return login_page.form(console, visit, 403, mark("The form was too old. Try again."))
    begun, to = waiting
    try:
        person = provider.finish(begun, visit.one("state"), visit.one("code"), visit.one("error"))
        name = console.accounts.arrive(person)
    except ProviderAway as error:
        return login_page.form(console, visit, 503, _AWAY, str(error))
    except (LogInRefused, ChangeRefused) as error:
        why = LogInRefusal.DISABLED if isinstance(error, Disabled) else LogInRefusal.PROVIDER
        console.metrics.log_in_refused(why)
        audit.record(console.database, _WHO, "log-in refused", f"{error}, from {visit.address}")
        return login_page.form(console, visit, 403, mark("The log-in was refused."), str(error))
    session = console.sessions.begin(name)
    return Redirect(to, {SESSION_COOKIE: session.token, _COOKIE: ""})


def end(console: Console, visit: Visit) -> Reply:
    """Send the browser to the page that ends the log-in at the log-in service."""
    provider = _provider(console)
    try:
        url = provider.end_url()
    except ProviderAway as error:
        return login_page.form(console, visit, 503, _AWAY, str(error))
    return Redirect("/login") if url is None else Redirect(url, away=True)


def _provider(console: Console) -> Provider:
    if console.provider is None:
        raise Refused(404)
    return console.provider
