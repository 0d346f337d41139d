"""The category of an image from its path in a watched folder."""

from __future__ import annotations

import re
from collections.abc import Iterable

from patchline.protocol.errors import SetupError

_CATEGORY = "{category}"
_TOKENS = re.compile(r"(\{category\}|\*\*/|\*)")
_EXPRESSIONS = {"**/": r"(?:.*/)?", "*": r"[^/]*"}


class CategoryPattern:
    """A pattern such as `{category}/*` or `**/{category}_*`, for paths relative to the watched folder.

    `{category}` stands for the name of a configured category, `*` for anything but a slash, and `**/` for any folders.

    Raises:
        SetupError: the pattern does not have exactly one `{category}`.
    """

    def __init__(self, pattern: str, categories: Iterable[str]) -> None:
        if pattern.count(_CATEGORY) != 1:
            raise SetupError(
                f"--category-from {pattern!r} must contain {_CATEGORY} once, such as '{_CATEGORY}/*' or '{_CATEGORY}_*'"
            )
        longest_first = sorted(categories, key=len, reverse=True)
        names = "|".join(map(re.escape, longest_first))
        expressions = _EXPRESSIONS | {_CATEGORY: f"(?P<category>{names})"}
        tokens = _TOKENS.split(pattern)
        self._regex = re.compile("".join(expressions.get(token) or re.escape(token) for token in tokens), re.DOTALL)

    def category(self, path: str) -> str | None:
        """Return the category of a path, or None if the pattern or the categories do not fit it."""
        match = self._regex.fullmatch(path)
        return match["category"] if match else None
