"""HTTP: a request becomes a visit, and a reply a response. The only starlette user.

Every response has the headers that keep a browser from running, loading or sending what is not of these pages
(W3C, Content Security Policy Level 3; Fetch Metadata).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from urllib.parse import parse_qs, quote

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route as WebRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from patchline.archive.base import TookTooLong, Unavailable
from patchline.console import routes, texts
from patchline.console.context import Console
from patchline.console.metrics import NO_PAGE
from patchline.console.routes import Route
from patchline.console.sessions import SESSION_COOKIE, Session
from patchline.console.texts import mark
from patchline.console.uploads import Receiver
from patchline.console.visit import Answer, Redirect, Refused, Reply, Stream, Values, Visit
from patchline.protocol.errors import DiskFull, SetupError
from patchline.runtime import disk

_log = structlog.get_logger(__name__)
_MOST_BODY = 65_536
_FORM_S = 60.0  # however slowly it is sent
_MOST_FIELDS = 1_000  # such as pictures that are ticked
_LANGUAGE_COOKIE = "patchline_language"
_KEPT_S = 31_536_000
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_NO_STORE = "no-store"
_LONGEST_NUMBER = 16  # digits of a length
_BEGUN = Answer(b"")  # what is sent is being read
_ASK_LESS = mark("This question took the archive too long. Choose a shorter time, or one line.")
_FULL = mark(
    "The disk of the console is full, so nothing was changed. Pages can be read. An administrator must make room."
)
_REFUSALS = {
    400: mark("The request makes no sense."),
    404: mark("There is no such page."),
    405: mark("There is no such page."),
    408: mark("The form came too slowly. Send it again."),
    413: mark("The form is too large."),
    500: mark("Something went wrong. The log of the console says what."),
}


def application(console: Console) -> ASGIApp:
    """Return the pages as an application of ASGI."""
    web = [WebRoute(one.path, _endpoint(console, one), methods=[one.method]) for one in routes.ROUTES]

    async def refuse(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        visit = await run_in_threadpool(_visit, console, request, {})
        console.metrics.answered(NO_PAGE, status, None)
        return _response(console, request, _refusal(console, visit, Refused(status)))

    inner = Starlette(routes=web, exception_handlers={HTTPException: refuse, Exception: refuse})
    inner.router.redirect_slashes = False
    return _Shell(inner, console.settings.console.prefix, console.settings.console.uses_https)


class _Shell:
    """Takes the prefix off each path, and adds the headers to each response."""

    def __init__(self, inner: ASGIApp, prefix: str, https: bool) -> None:
        self._inner, self._prefix = inner, prefix
        headers = _HEADERS | ({"strict-transport-security": f"max-age={_KEPT_S}"} if https else {})
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        if scope["type"] == "http":
            path: str = scope["path"]
            inside = path.removeprefix(self._prefix) if path.startswith(self._prefix + "/") else None
            # A path outside of the prefix is no page, and no page has an empty name.
            scope = {**scope, "path": path if not self._prefix else inside or "//", "root_path": ""}
        await self._inner(scope, receive, with_headers if scope["type"] == "http" else send)


def _endpoint(console: Console, route: Route) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        began = time.monotonic()
        form: Values | None = {}
        if route.upload is not None:
            return await _take_files(console, route, request)
        if route.method == "POST":
            form = await _form(request)
        reply, visit = await run_in_threadpool(_reply, console, route, request, form)
        response = _response(console, request, reply, visit)
        seconds = None if isinstance(reply, Stream) else time.monotonic() - began
        console.metrics.answered(route.path, response.status_code, seconds)
        return response

    return endpoint


async def _take_files(console: Console, route: Route, request: Request) -> Response:
    """Answer a form with files. Who may not send it is refused before anything is read."""
    visit = await run_in_threadpool(_visit, console, request, {})
    receivers: list[Receiver] = []

    def begin() -> Reply:
        _require_own_page(request, route)
        limits = routes.limits(console, route, visit)
        length = request.headers.get("content-length", "")
        known = int(length) if length.isdecimal() and len(length) < _LONGEST_NUMBER else None
        receivers.append(Receiver(request.headers.get("content-type", ""), known, visit.person.csrf, limits))
        return _BEGUN

    def feed(piece: bytes) -> Reply:
        receivers[0].feed(piece)
        return _BEGUN

    def end() -> Reply:
        taken = receivers[0]
        return routes.answer(console, route, replace(visit, form=taken.fields(), files=taken.files()))

    try:
        reply = await run_in_threadpool(_guarded, console, visit, begin)
        if reply is _BEGUN:
            async for piece in request.stream():
                reply = await run_in_threadpool(_guarded, console, visit, partial(feed, piece))
                if reply is not _BEGUN:
                    break
            else:
                reply = await run_in_threadpool(_guarded, console, visit, end)
        return _response(console, request, reply, visit)
    except ClientDisconnect:
        return Response(status_code=400)
    finally:
        for receiver in receivers:
            await run_in_threadpool(receiver.close)


async def _form(request: Request) -> Values | None:
    """Return what a form has sent; None if it is too large."""
    body = b""
    try:
        async with asyncio.timeout(_FORM_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _MOST_BODY:
                    return None
    except TimeoutError:
        raise HTTPException(408) from None
    return _values(body.decode(errors="replace"))


def _values(encoded: str) -> Values:
    try:
        return {name: tuple(values) for name, values in parse_qs(encoded, max_num_fields=_MOST_FIELDS).items()}
    except ValueError:
        return {}


def _reply(console: Console, route: Route, request: Request, form: Values | None) -> tuple[Reply, Visit]:
    """Answer a request on a thread of its own: databases and RabbitMQ may take their time."""
    visit = _visit(console, request, form or {}, is_used=not (route.renewed and "hx-request" in request.headers))

    def make() -> Reply:
        if form is None:
            raise Refused(413)
        _require_own_page(request, route)
        return routes.answer(console, route, visit)

    return _guarded(console, visit, make), visit


def _require_own_page(request: Request, route: Route) -> None:
    if request.headers.get("sec-fetch-site") not in (None, "same-origin", "none") and route.method != "GET":
        raise Refused(403, mark("The form was not made for this log-in. Load the page again."))


def _guarded(console: Console, visit: Visit, make: Callable[[], Reply]) -> Reply:
    """Make a reply. What goes wrong becomes a page that says it."""
    try:
        return make()
    except Refused as refused:
        return _refusal(console, visit, refused)
    except TookTooLong:
        _log.warning("a page took the archive too long", path=visit.path, query=visit.query_with())
        return _refusal(console, visit, Refused(503, _ASK_LESS))
    except Unavailable as error:
        return _refusal(console, visit, Refused(503, mark("The archive does not answer."), str(error)))
    except (DiskFull, OSError) as error:
        if not isinstance(error, DiskFull) and not disk.is_full(error):
            raise
        _log.error("the disk is full", path=visit.path, reason=str(error))
        return _refusal(console, visit, Refused(507, _FULL, str(error)))
    except SetupError as error:
        _log.error("a page cannot be made", path=visit.path, reason=str(error))
        return _refusal(console, visit, Refused(503, mark("The console cannot do this now."), str(error)))


def _visit(console: Console, request: Request, form: Values, is_used: bool = True) -> Visit:
    query = dict(_values(request.url.query))
    if "last-event-id" in request.headers:
        query["last-event-id"] = (request.headers["last-event-id"],)
    cookies = request.cookies
    wanted = (*query.pop("lang", ()), cookies.get(_LANGUAGE_COOKIE, ""))
    accepted = request.headers.get("accept-language", "")
    session, unknown = _session(console, cookies, is_used)
    return Visit(
        path=request.url.path,
        names=request.path_params,
        query=query,
        form=form,
        cookies=cookies,
        address=request.client.host if request.client else "",
        partial="hx-request" in request.headers,
        language=texts.choose(wanted, accepted, console.settings.console.language),
        session=session,
        unknown=unknown,
        is_form=request.method == "POST",
    )


def _session(console: Console, cookies: Mapping[str, str], is_used: bool) -> tuple[Session | None, str]:
    """Return the log-in, and why it cannot be known."""
    token = cookies.get(SESSION_COOKIE)
    try:
        return (console.sessions.find(token, is_used) if token else None), ""
    except SetupError as error:
        _log.error("it cannot be known who has logged in", reason=str(error))
        return None, str(error)


def _refusal(console: Console, visit: Visit, refused: Refused) -> Reply:
    if refused.status == 401:
        page = routes.way_back(visit.path)
        to = quote(f"{page}?{visit.query_with()}" if visit.query else page)
        is_lost = visit.is_form and visit.path != "/logout"
        return Redirect(f"/login?to={to}{'&lost=1' if is_lost else ''}")
    text = console.templates.explain(visit, refused, _REFUSALS.get(refused.status, ""))
    return console.templates.render("refused.html", visit, refused.status, text=text)


def _response(console: Console, request: Request, reply: Reply, visit: Visit | None = None) -> Response:
    if isinstance(reply, Stream):
        events = console.metrics.watched(reply.events)
        return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": _NO_STORE})
    if isinstance(reply, Redirect):
        to = reply.to if reply.away else console.templates.url(reply.to)
        is_partial = "hx-request" in request.headers
        response = Response(status_code=401, headers={"hx-redirect": to}) if is_partial else RedirectResponse(to, 303)
    else:
        response = Response(reply.body, reply.status, media_type=None, headers={"content-type": reply.content_type})
    is_kept = isinstance(reply, Answer) and reply.kept
    if isinstance(reply, Answer) and reply.saved_as:
        response.headers["content-disposition"] = f'attachment; filename="{reply.saved_as}"'
    response.headers["cache-control"] = f"max-age={_KEPT_S}, immutable" if is_kept else _NO_STORE
    for name, value in reply.cookies.items():
        _set_cookie(console, response, name, value)
    if visit is not None and "lang" in request.query_params:
        _set_cookie(console, response, _LANGUAGE_COOKIE, visit.language, _KEPT_S)
    return response


def _set_cookie(console: Console, response: Response, name: str, value: str, max_age: int | None = None) -> None:
    settings = console.settings.console
    age = 0 if not value else max_age
    response.set_cookie(
        name,
        value,
        max_age=age,
        path=settings.prefix or "/",
        secure=settings.uses_https,
        httponly=True,
        samesite="lax",
    )
