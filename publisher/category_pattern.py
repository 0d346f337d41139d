"""The category of an image from its path in a watched folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from patchline.protocol import messages
from patchline.protocol.errors import SetupError

_CATEGORY = "{category}"
_ANY_NAME = messages.NAME_PATTERN.strip("^$")
_TOKENS = re.compile(r"(\{category\}|\*\*/|\*)")
_EXPRESSIONS = {"**/": r"(?:.*/)?", "*": r"[^/]*"}


class CategoryPattern:
    """A pattern such as `{category}/*` or `**/{category}_*`, for paths relative to the watched folder.

    `{category}` stands for the name of a category, `*` for anything but a slash, and `**/` for any folders.

    Args:
        pattern: see above.
        categories: the names of the configured ones.
        has_recipe: whether another name is that of a category, too; None: none is.

    Raises:
        SetupError: the pattern does not have exactly one `{category}`.
    """

    def __init__(
        self, pattern: str, categories: Iterable[str], has_recipe: Callable[[str], bool] | None = None
    ) -> None:
        self._known, self._has_recipe = frozenset(categories), has_recipe
        if pattern.count(_CATEGORY) != 1:
            raise SetupError(
                f"--category-from {pattern!r} must contain {_CATEGORY} once, such as '{_CATEGORY}/*' or '{_CATEGORY}_*'"
            )
        longest_first = sorted(self._known, key=len, reverse=True)
        names = "|".join(map(re.escape, longest_first)) + ("" if has_recipe is None else f"|{_ANY_NAME}")
        expressions = _EXPRESSIONS | {_CATEGORY: f"(?P<category>{names})"}
        tokens = _TOKENS.split(pattern)
        self._regex = re.compile("".join(expressions.get(token) or re.escape(token) for token in tokens), re.DOTALL)

    def category(self, path: str) -> str | None:
        """Return the category of a path, or None if the pattern or the categories do not fit it."""
        match = self._regex.fullmatch(path)
        name = match["category"] if match else None
        if name is None or name in self._known:
            return name
        return name if self._has_recipe is not None and self._has_recipe(name) else None
