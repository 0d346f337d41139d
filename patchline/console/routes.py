"""Which page answers which path, and who may see it."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass

from patchline.console import (
    accounts_page,
    audit_page,
    bank_act_page,
    bank_page,
    category_page,
    lesson_page,
    line_page,
    login_page,
    look_page,
    oidc_page,
    part_page,
    password_page,
    plant_page,
    report_page,
    review_page,
    search_page,
    send_page,
    shadow_page,
    teach_page,
    threshold_page,
)
from patchline.console.context import Console
from patchline.console.roles import Role
from patchline.console.texts import mark
from patchline.console.uploads import Limits
from patchline.console.visit import Answer, Redirect, Refused, Reply, Visit


@dataclass(frozen=True)
class Route:
    """A page.

    Attributes:
        path: with names in braces.
        role: who may see it; None: everybody.
        renewed: htmx asks for it again and again, which is no sign that a person is there.
        costly: it asks much of the archive's database; a person gets few of them a minute.
        upload: how much a form with files may send to it; None: it takes no files.
        makes_room: it is not refused while the disk is full.
    """

    method: str
    path: str
    page: Callable[[Console, Visit], Reply]
    role: Role | None
    renewed: bool = False
    costly: bool = False
    upload: Callable[[Console, Visit], Limits] | None = None
    makes_room: bool = False


def _home(_: Console, __: Visit) -> Reply:
    return Redirect("/line")


def _asset(console: Console, visit: Visit) -> Reply:
    answer = console.templates.asset(visit.names["name"])
    if answer is None:
        raise Refused(404)
    return answer


def _healthy(_: Console, __: Visit) -> Reply:
    return Answer(b"yes\n", "text/plain; charset=utf-8")


# What a person may do who must choose a password first, and as often as it takes.
_BEFORE_A_PASSWORD = ("/password", "/logout")
ROUTES = (
    Route("GET", "/healthz", _healthy, None),
    Route("GET", "/static/{name}", _asset, None),
    Route("GET", "/login", login_page.show, None),
    Route("POST", "/login", login_page.log_in, None),
    Route("GET", "/oidc", oidc_page.begin, None),
    Route("GET", "/oidc/back", oidc_page.finish, None),
    Route("GET", "/oidc/logout", oidc_page.end, None),
    Route("POST", "/logout", login_page.log_out, Role.SEE),
    Route("GET", "/password", password_page.show, Role.SEE),
    Route("POST", "/password", password_page.change, Role.SEE),
    Route("GET", "/", _home, Role.SEE),
    Route("GET", "/line", line_page.show, Role.SEE),
    Route("GET", "/line/events", line_page.listen, Role.SEE),
    Route("GET", "/line/send", send_page.show, Role.ENGINEER, renewed=True),
    Route("POST", "/line/send", send_page.send, Role.ENGINEER, upload=send_page.limits),
    Route("GET", "/search", search_page.show, Role.SEE, costly=True),
    Route("GET", "/report", report_page.show, Role.SEE, costly=True),
    Route("GET", "/report.html", report_page.save_html, Role.SEE, costly=True),
    Route("GET", "/report.pdf", report_page.save_pdf, Role.SEE, costly=True),
    Route("GET", "/part/{name}", part_page.show, Role.SEE),
    Route("GET", "/picture/{job}/{kind}", part_page.show_picture, Role.SEE),
    Route("GET", "/outlines/{job}", part_page.show_outlines, Role.SEE),
    Route("GET", "/look/{job}", look_page.show, Role.SEE),
    Route("POST", "/look/{job}", look_page.ask, Role.SEE),
    Route("GET", "/look/{job}/{kind}", look_page.show_picture, Role.SEE),
    Route("GET", "/review", review_page.show, Role.REVIEW, costly=True),
    Route("POST", "/review", review_page.judge, Role.REVIEW),
    Route("GET", "/plant", plant_page.show, Role.SEE, renewed=True),
    Route("GET", "/banks", bank_page.show_all, Role.SEE),
    Route("GET", "/banks/{category}", bank_page.show, Role.SEE, renewed=True),
    Route("GET", "/banks/{category}/report", shadow_page.show, Role.SEE),
    Route("GET", "/banks/{category}/act", bank_act_page.ask, Role.ENGINEER),
    Route("POST", "/banks/{category}/act", bank_act_page.do, Role.ENGINEER),
    Route("GET", "/category", category_page.show_all, Role.SEE),
    Route("GET", "/category/{category}", category_page.show, Role.SEE),
    Route("POST", "/category/{category}/thresholds", threshold_page.set_, Role.ENGINEER),
    Route("POST", "/category/{category}/activate", threshold_page.activate, Role.ENGINEER),
    Route("POST", "/category/{category}/rollback", threshold_page.roll_back, Role.ENGINEER),
    Route("GET", "/accounts", accounts_page.show, Role.ADMIN),
    Route("POST", "/accounts", accounts_page.change, Role.ADMIN),
    Route("GET", "/teach", teach_page.show, Role.ENGINEER),
    Route("POST", "/teach", teach_page.begin, Role.ENGINEER),
    Route("GET", "/teach/{lesson}", lesson_page.show, Role.ENGINEER),
    Route("POST", "/teach/{lesson}", lesson_page.upload, Role.ENGINEER, upload=lesson_page.limits),
    Route("POST", "/teach/{lesson}/archive", lesson_page.choose, Role.ENGINEER),
    Route("POST", "/teach/{lesson}/fit", lesson_page.fit, Role.ENGINEER),
    Route("GET", "/teach/{lesson}/run", lesson_page.show_run, Role.ENGINEER, renewed=True),
    Route("POST", "/teach/{lesson}/cancel", lesson_page.cancel, Role.ENGINEER, makes_room=True),
    Route("POST", "/teach/{lesson}/delete", lesson_page.delete, Role.ENGINEER, makes_room=True),
    Route("GET", "/teach/{lesson}/small/{kind}/{name}", lesson_page.show_small, Role.ENGINEER),
    Route("GET", "/teach/{lesson}/tile/{name}", lesson_page.show_tile, Role.ENGINEER),
    Route("GET", "/audit", audit_page.show, Role.ADMIN),
)


def way_back(path: str) -> str:
    """Return where a person comes back to after a log-in: a form that has no page of its own is of the one above."""
    pages = (re.sub(r"\{\w+\}", "[^/]+", route.path) for route in ROUTES if route.method == "GET")
    has_page = any(re.fullmatch(page, path) for page in pages)
    return path if has_page else path.rpartition("/")[0] or "/"


def answer(console: Console, route: Route, visit: Visit) -> Reply:
    """Answer a visit, if this person may make it.

    Raises:
        Refused: nobody has logged in, the role does not suffice, the form is not of this log-in, or it is one too
            many; or the page says so.
    """
    if route.role is not None:
        if route.method != "GET" and (again := console.repeats.answered(visit)) is not None:
            return again  # whatever would refuse it now: it is done
        if visit.person.must_change and route.path not in _BEFORE_A_PASSWORD:
            return Redirect("/password")
        _require_role(route.role, visit)
        if route.method != "GET" and not hmac.compare_digest(visit.one("csrf").encode(), visit.person.csrf.encode()):
            raise Refused(403, mark("The form was not made for this log-in. Load the page again."))
        is_counted = route.path not in _BEFORE_A_PASSWORD
        if is_counted and not console.rates.admit(visit.person.name, route.method, route.costly):
            raise Refused(429, mark("Too much at once. Wait a few seconds, and load the page again."))
        if is_counted and route.method != "GET" and not route.makes_room:
            console.database.require_room()  # nothing is done that the audit log could not have
        if route.method != "GET":
            return console.repeats.answer(visit, lambda: route.page(console, visit))
    return route.page(console, visit)


def limits(console: Console, route: Route, visit: Visit) -> Limits:
    """Return how much this person may send to a page that takes files. Raises Refused, as `answer`."""
    if route.role is None or route.upload is None:
        raise Refused(404)
    if visit.person.must_change:
        raise Refused(403, mark("Change the password first."))
    _require_role(route.role, visit)
    console.database.require_room()
    return route.upload(console, visit)


def _require_role(role: Role, visit: Visit) -> None:
    if not visit.person.role.may(role):
        raise Refused(403, mark("Your account may not do this. An administrator can change its role."))
