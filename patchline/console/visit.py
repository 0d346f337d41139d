"""What a page gets and gives: a request and an answer, without anything of HTTP's libraries."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from patchline.console.sessions import SESSION_COOKIE, Session
from patchline.console.texts import mark

Values = Mapping[str, tuple[str, ...]]
HTML = "text/html; charset=utf-8"


@dataclass(frozen=True)
class Received:
    """A file that a form has sent.

    Attributes:
        name: as the browser says it; empty if the field was left empty.
        path: where it is until the page is made; None if it was refused.
        problem: why it was refused, to be translated.
        digest: SHA-256 of its bytes, as hexadecimal digits; empty if it was refused.
    """

    name: str
    path: Path | None
    problem: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Visit:
    """A request of a browser.

    Attributes:
        path: of the page, without the prefix.
        names: the parts of the path that have names.
        query: the values after the question mark.
        form: what was sent, of a POST.
        cookies: by name.
        address: of the browser, or of its proxy.
        partial: htmx wants a part of the page.
        language: of the texts.
        session: the log-in; None: nobody has logged in.
        files: that were sent, to a page that takes files.
        unknown: why it cannot be known now who has logged in.
        is_form: it is a POST.
    """

    path: str
    names: Mapping[str, str] = field(default_factory=dict)
    query: Values = field(default_factory=dict)
    form: Values = field(default_factory=dict)
    cookies: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    partial: bool = False
    language: str = "en"
    session: Session | None = None
    files: tuple[Received, ...] = ()
    unknown: str = ""
    is_form: bool = False

    def one(self, name: str) -> str:
        """Return a value of the form or the query, without spaces around it; empty if it is missing."""
        return (self.form.get(name) or self.query.get(name) or ("",))[0].strip()

    def all(self, name: str) -> tuple[str, ...]:
        """Return all values of a name in the query."""
        return self.query.get(name, ())

    def query_with(self, **changes: str) -> str:
        """Return the query with other values; an empty one is left out."""
        kept = [(name, value) for name, values in self.query.items() if name not in changes for value in values]
        return urlencode([*kept, *((name, value) for name, value in changes.items() if value)])

    @property
    def token(self) -> str:
        """What the browser has of its log-in, which may have ended; empty: it has none."""
        return self.cookies.get(SESSION_COOKIE, "") if self.session is None else self.session.token

    @property
    def person(self) -> Session:
        """The log-in, on a page that nobody sees without one."""
        if self.session is None:
            raise Refused(503, mark("The console cannot do this now."), self.unknown) if self.unknown else Refused(401)
        return self.session


@dataclass(frozen=True)
class Answer:
    """A page, or another file.

    Attributes:
        cookies: to set, by name; an empty one is deleted.
        kept: the browser may keep it for ever.
        saved_as: the browser is to save it as a file of this name.
    """

    body: bytes
    content_type: str = HTML
    status: int = 200
    cookies: Mapping[str, str] = field(default_factory=dict)
    kept: bool = False
    saved_as: str = ""


@dataclass(frozen=True)
class Redirect:
    """The browser is to get another page, whose path has no prefix. See `Answer` for the cookies.

    Attributes:
        away: `to` is the url of another server.
    """

    to: str
    cookies: Mapping[str, str] = field(default_factory=dict)
    away: bool = False


@dataclass(frozen=True)
class Stream:
    """Server-sent events (HTML, section 9.2), until the browser goes."""

    events: AsyncIterator[bytes]


Reply = Answer | Redirect | Stream


class Refused(Exception):
    """The request is not answered with its page.

    Args:
        status: of HTTP: 400 senseless, 401 not logged in, 403 not allowed, 404 not there, 409 done by
            somebody else or not possible, 429 too often, 503 not now.
        text: what is wrong, for people, in English, as a text of the catalogues.
        detail: what a program says of it.
    """

    def __init__(self, status: int, text: str = "", detail: str = "") -> None:
        super().__init__(text)
        self.status, self.text, self.detail = status, text, detail
