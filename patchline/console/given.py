"""The judgements that were given here in the last minute: the archive has them a moment later."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from patchline.protocol.judgement_message import Judgement, Label

_KEPT_S = 60.0


class Given:
    """Remembers judgements for a minute. Thread-safe.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._given: dict[str, tuple[float, Judgement]] = {}
        self._lock = threading.Lock()

    def add(self, judgement: Judgement) -> None:
        """Remember a judgement."""
        with self._lock:
            now = self._clock()
            self._given = {job: one for job, one in self._given.items() if now - one[0] < _KEPT_S}
            self._given[judgement.job_id] = (now, judgement)

    def is_judged(self, job_id: str, archived: str | None) -> bool:
        """Return True if a part counts as judged, with what was said here before the archive had it.

        Args:
            job_id: of the part.
            archived: the judgement of the archive, or None.
        """
        with self._lock:
            said = self._given.get(job_id)
        fresh = said is not None and self._clock() - said[0] < _KEPT_S
        newest = said[1].judgement if said is not None and fresh else archived
        return newest is not None and newest != Label.WITHDRAWN
