"""Why something is refused, as other parts of Patchline say it in English, in the language of a page."""

from __future__ import annotations

import gettext
import re

from patchline.console.texts import mark

# Places are values of any kind, but for `last`, which is a reason itself.
REASONS = (
    mark("%(category)s: version %(version)s is retired; publish a bank of its images again"),
    mark("%(category)s: version %(version)s is retired already"),
    mark("%(category)s: version %(version)s is retired"),
    mark("%(category)s: version %(version)s is active already; %(last)s"),
    mark("%(category)s: version %(version)s is active; activate another one first"),
    mark("%(category)s: version %(version)s is active; a shadow is another version"),
    mark("%(category)s: version %(version)s is the shadow already; %(last)s"),
    mark("%(category)s: version %(version)s is the shadow; end it first with --end"),
    mark("%(category)s: no version was active before this one; activate one by its digest"),
    mark("%(category)s: no version is a shadow"),
    mark("%(category)s: nothing was done; %(last)s; look, then try again"),
    mark("%(category)s: %(version)s is active by now; load the page again"),
    mark("%(who)s has published %(version)s (%(why)s)"),
    mark("%(who)s has activated %(version)s (%(why)s)"),
    mark("%(who)s has rolled back to %(version)s (%(why)s)"),
    mark("%(who)s has retired %(version)s (%(why)s)"),
    mark("%(who)s has made a shadow of %(version)s (%(why)s)"),
    mark("%(who)s has ended the shadow %(version)s (%(why)s)"),
    mark("the version has these thresholds already: review from %(review)s, fail from %(fail)s"),
    mark("%(category)s is being fitted; one fit runs at a time"),
    mark("the console ended meanwhile; no version was made, so fit again"),
    mark("%(path)s: the disk is full; make room on it"),
    mark("the disk is full, so no version was made; make room, and fit again"),
    mark("the time of the report begins after its end, or in the future"),
    mark("name a shift, a batch, or the time from which the report is to be"),
    mark("name a shift, or a batch, or a time; a shift has its own time"),
    mark("a report is about %(days)s days at most"),
    mark("the body is empty"),
    mark("there are a thousand of this name"),
    mark("%(size)s bytes; images.max_bytes is %(most)s"),
    mark("%(width)s x %(height)s pixels; images.max_pixels is %(most)s"),
    mark("%(width)s x %(height)s pixels; images.min_side_pixels is %(least)s"),
    mark("the bytes are no image that is read here; write %(formats)s"),
    mark("the bytes are %(name)s; write %(formats)s"),
    mark("it has %(frames)s frames; send one image per part"),
)
_PLACE = re.compile(r"%\((\w+)\)s")


def _pattern(text: str) -> re.Pattern[str]:
    """Return what a reason looks like whose places have values."""
    pieces = _PLACE.split(text)  # text and names of places in turn
    places = (f"(?P<{piece}>.+?)" if number % 2 else re.escape(piece) for number, piece in enumerate(pieces))
    return re.compile("".join(places))


_PATTERNS = tuple((text, _pattern(text)) for text in REASONS)


def translated(catalogue: gettext.NullTranslations, reason: str) -> str:
    """Return a reason in the language of a catalogue; as it is if it is none of `REASONS`."""
    for text, pattern in _PATTERNS:
        found = pattern.fullmatch(reason)
        if found is not None:
            values = found.groupdict()
            if "last" in values:
                values["last"] = translated(catalogue, values["last"])
            return catalogue.gettext(text) % values
    return reason
