"""Numbers and times of a report as people of a language write them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import tzinfo

from patchline.console import texts, words
from patchline.evaluation.intervals import Figure
from patchline.operations import shift_times

_DAY_MS = 86_400_000
_DECIMAL_COMMA = ("de",)
NOTHING = "–"


class Wording:
    """Writes values.

    Args:
        language: one of `texts.LANGUAGES`.
        zone: the time zone of the plant; None: that of this host.
    """

    def __init__(self, language: str, zone: tzinfo | None) -> None:
        self.language, self._zone = language, zone
        self.say: Callable[[str], str] = texts.catalogue(language).gettext

    def decision(self, decision: str) -> str:
        """Return the word for a decision; that of a later build as it is."""
        return self.say(words.DECISIONS.get(decision, decision))

    def share(self, figure: Figure) -> tuple[str, str]:
        """Return a share in percent, and its bounds."""
        return f"{self._percent(figure.value)} %", self._bounds(figure)

    def bounded(self, figure: Figure | None) -> str:
        """Return a share in percent with its bounds in brackets, without the sign."""
        return NOTHING if figure is None else f"{self._percent(figure.value)} ({self._bounds(figure)})"

    def range(self, ends: tuple[float, float] | None) -> str:
        """Return the lowest and the highest score, or the one that it is."""
        if ends is None:
            return NOTHING
        low, high = map(self.score, ends)
        return low if low == high else f"{low}–{high}"

    def score(self, value: float | None) -> str:
        """Return a score with four digits."""
        return NOTHING if value is None else self._point(f"{value:.4g}")

    def clock(self, epoch_ms: int) -> str:
        """Return a time of the plant to the minute, with the name of its zone, which tells summer from winter."""
        return shift_times.local(epoch_ms, self._zone).strftime("%Y-%m-%d %H:%M %Z")

    def moment(self, epoch_ms: int, span_ms: int) -> str:
        """Return a time within a span: without the day if the span has at most one."""
        at = shift_times.local(epoch_ms, self._zone)
        return at.strftime("%H:%M" if span_ms <= _DAY_MS else "%m-%d %H:%M")

    def _bounds(self, figure: Figure) -> str:
        if figure.low is None or figure.high is None:
            return NOTHING
        return f"{self._percent(figure.low)}–{self._percent(figure.high)}"

    def _percent(self, share: float) -> str:
        return self._point(f"{share * 100:.2f}")

    def _point(self, number: str) -> str:
        return number.replace(".", ",") if self.language in _DECIMAL_COMMA else number
