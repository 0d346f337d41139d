"""Pages from templates, in the language of the visit. The only jinja2 user."""

from __future__ import annotations

import gettext
import hashlib
import mimetypes
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path

import jinja2

from patchline.banks.version_log import SHORT
from patchline.console import reasons, texts, words
from patchline.console.events import Event
from patchline.console.roles import Role
from patchline.console.visit import Answer, Refused, Visit

_HERE = Path(__file__).parent
_IN_SECONDS_MS = 10_000
_ONCE_BYTES = 12  # of a form, so that it acts once
_LEAST_PERCENT = 0.001
_ASSETS = ("category.js", "console.css", "console.js", "report.css", "htmx.min.js", "htmx-LICENSE.txt", "icon.svg")


class Templates:
    """Renders pages. Values are escaped, and a value that is missing is an error.

    Args:
        prefix: of all paths.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.assets = {name: (_HERE / "static" / name).read_bytes() for name in _ASSETS}
        self._digests = {name: hashlib.sha256(body).hexdigest()[:12] for name, body in self.assets.items()}
        self._environments = {language: self._environment(language) for language in texts.LANGUAGES}

    def render(self, name: str, visit: Visit, status: int = 200, /, **values: object) -> Answer:
        """Return a page in the language of a visit."""
        shared: Mapping[str, object] = {"visit": visit, "session": visit.session, "may": _may(visit)}
        template = self._environments[visit.language].get_template(name)
        return Answer(template.render(**shared, **values).encode(), status=status)

    def file(self, name: str, language: str, **values: object) -> str:
        """Return a page that is no page of the console: a file of its own."""
        return self._environments[language].get_template(name).render(**values)

    def style(self, name: str) -> str:
        """Return a style sheet of the pages, for a file that has it inside."""
        return self.assets[name].decode()

    def say(self, visit: Visit, text: str, **values: object) -> str:
        """Return a text in the language of a visit."""
        translated = texts.catalogue(visit.language).gettext(text) if text else ""
        return translated % values if values else translated

    def explain(self, visit: Visit, refused: Refused, text: str = "") -> str:
        """Return why something is refused, in the language of a visit; `text` if it does not say."""
        said = self.say(visit, refused.text or text)
        return f"{said.rstrip('.。')}: {self.reason(visit, refused.detail)}" if refused.detail else said

    def reason(self, visit: Visit, reason: str) -> str:
        """Return what another part of Patchline says, in the language of a visit if it is known there."""
        return reasons.translated(texts.catalogue(visit.language), reason)

    def asset(self, name: str) -> Answer | None:
        """Return a file of the pages, which the browser may keep; None if there is none of this name."""
        if name not in self.assets:
            return None
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Answer(self.assets[name], f"{kind}; charset=utf-8", kept=True)

    def url(self, path: str) -> str:
        """Return a path with the prefix."""
        return self._prefix + path

    def _asset_url(self, name: str) -> str:
        return self.url(f"/static/{name}?v={self._digests[name]}")

    def _environment(self, language: str) -> jinja2.Environment:
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.i18n"],
        )
        catalogue = texts.catalogue(language)
        install: Callable[..., None] = getattr(environment, "install_gettext_callables")  # noqa: B009 - set by i18n
        install(catalogue.gettext, catalogue.ngettext, newstyle=True)
        environment.filters.update(
            clock=clock,
            moment=moment,
            took=took,
            score=score,
            chance=chance,
            told=_told(catalogue),
            short=short,
            age=age,
        )
        environment.filters["reason"] = partial(reasons.translated, catalogue)
        environment.globals.update(
            url=self.url,
            asset=self._asset_url,
            words=words,
            languages=texts.LANGUAGES,
            Role=Role,
            once=lambda: secrets.token_urlsafe(_ONCE_BYTES),
        )
        return environment


def clock(epoch_ms: int) -> str:
    """Return a time of this machine, to the second."""
    return datetime.fromtimestamp(epoch_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def moment(epoch_ms: int) -> str:
    """Return a time of this machine, to the millisecond."""
    return f"{clock(epoch_ms)}.{epoch_ms % 1000:03}"


def took(ms: float) -> str:
    """Return a time span: milliseconds, or seconds from ten of them on."""
    if abs(ms) >= _IN_SECONDS_MS:
        return f"{ms / 1000:.1f} s"
    return f"{ms} ms" if isinstance(ms, int) else f"{ms:.1f} ms"


def score(value: float | None) -> str:
    """Return a score with four digits; a dash if there is none."""
    return "–" if value is None else f"{value:.4g}"


def chance(probability: float) -> str:
    """Return a probability in per cent with two digits, without the sign. One that is tiny has a bound instead."""
    percent = 100 * probability
    return f"< {_LEAST_PERCENT}" if percent < _LEAST_PERCENT else f"{percent:.2g}"


def short(digest: str) -> str:
    """Return the first digits of a digest."""
    return digest[:SHORT]


def age(seconds: float) -> str:
    """Return a time span in its largest unit, with the symbols of SI."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _told(catalogue: gettext.NullTranslations) -> Callable[[Event], str]:
    def told(event: Event) -> str:
        said = {name: catalogue.gettext(word) for name, word in event.words.items()}
        return catalogue.gettext(event.text) % (event.values | said)

    return told


def _may(visit: Visit) -> Callable[[Role], bool]:
    return lambda role: visit.session is not None and visit.session.role.may(role)
