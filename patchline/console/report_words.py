"""The words of reports, beside those of the pages in `words.py`."""

from __future__ import annotations

from collections.abc import Callable

from patchline.console import words
from patchline.console.texts import mark
from patchline.protocol.errors import Reason
from patchline.protocol.gate_messages import Action

ACTIONS: dict[str, str] = {Action.ACCEPT: mark("accepted"), Action.REJECT: mark("rejected")}
PICTURES: dict[str, str] = {"image": mark("picture"), "heat_map": mark("heat map")}
_REASONS: dict[str, str] = {
    Reason.MALFORMED_MESSAGE: mark("the message of the job is damaged"),
    Reason.UNKNOWN_CATEGORY: mark("the worker does not know the category"),
    Reason.UNSUPPORTED_CONTENT_TYPE: mark("the image is of an unknown format"),
    Reason.UNREADABLE_IMAGE: mark("the image cannot be read"),
    Reason.IMAGE_OVER_LIMIT: mark("the image is too large"),
    Reason.NO_IMAGE: mark("the camera gave no image"),
    Reason.DEVICE_FAILED: mark("the device has failed"),
    Reason.CRASHED: mark("a worker has crashed on it"),
    Reason.DEADLINE_PASSED: mark("its deadline had passed"),
}
# The texts of `patchline.gate`: what an act says of itself.
_BECAUSE: dict[str, str] = {
    "no verdict in time": mark("no verdict in time"),
    "no part number": mark("no part number"),
    "unannounced": mark("nobody announced it"),
    "other category than the PLC's": mark("another category than the PLC's"),
    "too late for the arm": mark("too late for the arm"),
    "a later part has its number": mark("a later part has its number"),
    "another image of the part": mark("another image of the part"),
    "unattended": mark("no gate could act, and the PLC rejected it"),
    "told by another gate": mark("told by another gate"),
}
# The acts of `patchline.banks.version_log`, and what the audit log of the console calls its entries.
CHANGES: dict[str, str] = {
    "publish": mark("bank published"),
    "activate": mark("bank activated"),
    "rollback": mark("bank rolled back"),
    "retire": mark("bank retired"),
    "shadow": mark("shadow started"),
    "end-shadow": mark("shadow ended"),
    **words.CHANGES,
}


def reason(text: str, say: Callable[[str], str]) -> str:
    """Return why a part was not judged, in a language; a reason of a later build as it is."""
    return say(_REASONS[text]) if text in _REASONS else text or "–"


def because(text: str, say: Callable[[str], str]) -> str:
    """Return why a gate has acted, in a language; what it does not know as it is."""
    known = _BECAUSE.get(text) or words.DECISIONS.get(text)
    return say(known) if known else text or "–"
