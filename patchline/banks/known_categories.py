"""The categories that a plant knows: those of the configuration, and those that the store has beside them."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import structlog

from patchline import config
from patchline.banks import opening
from patchline.banks.versions import Versions
from patchline.protocol.errors import SetupError

_log = structlog.get_logger(__name__)
_PATIENCE_S = 15.0  # a bucket that does not answer says so after ten; a folder on a dead NFS server never does


def names(settings: config.Config, versions: Versions) -> list[str]:
    """Return their names in order. One of the store has a version, which may not be active yet.

    Raises:
        SetupError: the store cannot be read.
    """
    known = set(settings.categories)
    if settings.banks.new_categories_like is not None:
        known.update(versions.categories())
    return sorted(known)


def require(settings: config.Config, name: str) -> None:
    """Refuse the name of a category that is not known: its jobs would wait in a queue that no worker reads.

    A store that cannot be read keeps nobody from sending. The name is taken as it is then.

    Raises:
        SetupError: the category is not known.
    """
    settings.category(name)
    if name in settings.categories:
        return
    try:
        known = _look(settings)
    except SetupError as error:
        _log.warning("category not compared with the store of memory banks", category=name, reason=str(error))
        return
    if name not in known:
        advice = "correct the name, or say --new-category if its memory bank comes later"
        text = f"neither the configuration nor {settings.banks.store} has it; known: {', '.join(known)}; {advice}"
        raise SetupError(f"category {name!r} is unknown: {text}")


def _look(settings: config.Config) -> list[str]:
    """Return the names. Raise SetupError if the store cannot be read, or does not answer."""
    found: Future[list[str]] = Future()

    def look() -> None:
        try:
            found.set_result(names(settings, opening.versions(settings)))
        except SetupError as error:
            found.set_exception(error)

    threading.Thread(target=look, name="known categories", daemon=True).start()
    try:
        return found.result(_PATIENCE_S)
    except TimeoutError:
        raise SetupError(f"{settings.banks.store} has not answered for {_PATIENCE_S:.0f} s") from None
