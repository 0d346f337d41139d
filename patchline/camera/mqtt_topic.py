"""What the topic of an MQTT message says, by a pattern such as `cameras/{line}/{category}/{part_id}/{captured_at}`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from patchline.protocol.errors import SetupError

FIELDS = ("category", "part_id", "number", "encoder_count", "captured_at")
_LINE, _ANY = "{line}", "+"
_LEVEL = re.compile(r"[A-Za-z0-9_:-]{1,63}")
_MAX_LEVELS = 7  # of a topic; a user's permission bounds them to 24 characters each, since AMQP takes 255 bytes


class TopicPattern:
    """The topics of the devices of one line.

    A level is a word, `{line}`, `{FIELD}` with a field of a part, or `+` for anything. RabbitMQ's plug-in makes a dot
    of each slash, so no level may have a dot.

    Args:
        text: the pattern.
        line: what `{line}` stands for.

    Raises:
        SetupError: the pattern cannot be used.
    """

    def __init__(self, text: str, line: str) -> None:
        self._levels = text.replace(_LINE, line).split("/") if text else []
        fields = [level[1:-1] for level in self._levels if level.startswith("{") and level.endswith("}")]
        for level in self._levels:
            if not (level == _ANY or level[1:-1] in fields or _LEVEL.fullmatch(level)):
                raise SetupError(f"{text!r}: {level!r} is no level of a topic; {_ADVICE}")
        for field in fields:
            if field not in FIELDS or fields.count(field) > 1:
                raise SetupError(f"{text!r}: {{{field}}} is unknown or there twice; {_ADVICE}")
        self._words = self._leading_words()
        if not self._words or len(self._levels) > _MAX_LEVELS:
            raise SetupError(f"{text!r} must begin with a word, and have {_MAX_LEVELS} levels at most; {_ADVICE}")

    @property
    def key(self) -> str:
        """The routing key of the words that all topics begin with. It reaches the queue, too."""
        return ".".join(self._words)

    @property
    def binding(self) -> str:
        """The pattern of the queue's binding: everything that begins with the words, so that nothing is lost unseen."""
        return f"{self.key}.#"

    @property
    def permission(self) -> str:
        """A regular expression for the routing keys that devices may use (topic permissions of RabbitMQ)."""
        words, rest = re.escape(self.key).replace(r"\-", "-"), len(self._levels) - len(self._words)
        return rf"^{words}(\.[A-Za-z0-9_:-]{{1,24}}){{{rest}}}$"

    def fields(self, routing_key: str) -> Mapping[str, str] | None:
        """Return what a routing key says of a part; None if it does not fit the pattern."""
        levels = routing_key.split(".")
        if len(levels) != len(self._levels):
            return None
        said = {}
        for pattern, level in zip(self._levels, levels, strict=True):
            if pattern.startswith("{"):
                said[pattern[1:-1]] = level
            elif pattern not in (_ANY, level):
                return None
        return said

    def _leading_words(self) -> list[str]:
        words = []
        for level in self._levels:
            if level == _ANY or level.startswith("{"):
                break
            words.append(level)
        return words


_ADVICE = f"write words, + and {', '.join(f'{{{field}}}' for field in FIELDS)}, such as cameras/{_LINE}/{{part_id}}"
