"""The texts of the pages in several languages: catalogues of gettext. English is the language of the sources."""

from __future__ import annotations

import gettext
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

LANGUAGES = {"en": "English", "de": "Deutsch", "zh": "中文"}
DOMAIN = "console"
FOLDER = Path(__file__).parent / "locale"


def mark(text: str) -> str:
    """Return a text as it is. It marks what `python -m tools.texts` collects for the catalogues."""
    return text


@cache
def catalogue(language: str) -> gettext.NullTranslations:
    """Return the texts of one of `LANGUAGES`."""
    if language == "en":
        return gettext.NullTranslations()
    return gettext.translation(DOMAIN, FOLDER, [language])


def choose(wanted: Iterable[str], accepted: str, default: str) -> str:
    """Return the language of a visit.

    Args:
        wanted: what the person has chosen, the strongest first; empty ones do not count.
        accepted: the header Accept-Language (RFC 9110, section 12.5.4).
        default: if the browser accepts none of ours.
    """
    for language in wanted:
        if language in LANGUAGES:
            return language
    weighted = []
    for number, item in enumerate(accepted[:500].split(",")):
        found = re.fullmatch(r"\s*([A-Za-z]{1,8})(?:-[A-Za-z0-9-]*)?\s*(?:;\s*q=([0-9.]{1,5}))?\s*", item)
        if found and found[1].lower() in LANGUAGES:
            weight = found[2] or "1"
            weighted.append((-_number(weight), number, found[1].lower()))
    return min(weighted)[2] if weighted else default


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
