"""Recent verdicts and scores, in Redis. The only redis user. A cache: its absence is survivable, and costs nothing."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

import pydantic
import redis
import structlog

from patchline import config
from patchline.protocol import messages

_log = structlog.get_logger(__name__)
_REST_S = 5.0  # how long Redis is left alone after it failed, so that a dead one costs one timeout and no more
_GATHER_S = 0.05  # what comes within this time is written at once
_MOST_WAITING = 1000  # verdicts and pictures; where Redis is slower than the line, the newest are not kept
_CLOSE_S = 1.0


class Recent(Protocol):
    """What a lane asks for and tells."""

    def known(self, job_id: str) -> messages.Verdict | None:
        """The verdict that this job was given before, if it is remembered."""
        ...

    def remember(self, verdict: messages.Verdict) -> None:
        """Keep a verdict that the broker has confirmed."""
        ...

    def keep_picture(self, job_id: str, jpeg: bytes) -> None:
        """Keep the heat map of a part for a while."""
        ...

    def picture(self, job_id: str) -> bytes | None:
        """The heat map of a part, if it is still there."""
        ...

    def close(self) -> None:
        """Keep what was told last, if that can be had soon."""
        ...


class Nowhere:
    """Redis is switched off."""

    def known(self, job_id: str) -> messages.Verdict | None:
        """Never known."""

    def remember(self, verdict: messages.Verdict) -> None:
        """Forgotten at once."""

    def keep_picture(self, job_id: str, jpeg: bytes) -> None:
        """Forgotten at once."""

    def picture(self, job_id: str) -> bytes | None:
        """Never kept."""

    def close(self) -> None:
        """Nothing is left to keep."""


class RedisRecent:
    """Written on a thread of its own, many verdicts at once: no lane waits for Redis, however slow it is.

    Keys: `patchline:verdict:<job id>` and `patchline:picture:<job id>` with a time to live each.

    And `patchline:recent:<line>:<category>`, newest first.
    """

    def __init__(
        self, settings: config.Redis, on_failure: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._on_failure = on_failure
        self._clock = clock
        self._resting_until = 0.0
        trust = {"ssl_ca_certs": str(settings.ca_file)} if settings.ca_file else {}
        self._client = redis.Redis.from_url(
            settings.url,
            **trust,
            socket_timeout=settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
            retry=None,
        )
        self._waiting: queue.Queue[messages.Verdict | tuple[str, bytes]] = queue.Queue(_MOST_WAITING)
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._write_behind, name="recent", daemon=True)
        self._writer.start()

    def known(self, job_id: str) -> messages.Verdict | None:
        """See `Recent`."""
        found = self._try(lambda: self._client.get(f"patchline:verdict:{job_id}"))
        if not isinstance(found, bytes):
            return None
        try:
            return messages.Verdict.model_validate_json(found)
        except pydantic.ValidationError:
            return None  # written by another version: judge anew

    def remember(self, verdict: messages.Verdict) -> None:
        """See `Recent`."""
        self._soon(verdict)

    def keep_picture(self, job_id: str, jpeg: bytes) -> None:
        """See `Recent`."""
        self._soon((job_id, jpeg))

    def picture(self, job_id: str) -> bytes | None:
        """See `Recent`."""
        found = self._try(lambda: self._client.get(f"patchline:picture:{job_id}"))
        return found if isinstance(found, bytes) else None

    def close(self) -> None:
        """See `Recent`."""
        self._closing.set()
        self._writer.join(_CLOSE_S)

    def _soon(self, entry: messages.Verdict | tuple[str, bytes]) -> None:
        with suppress(queue.Full):
            self._waiting.put_nowait(entry)

    def _write_behind(self) -> None:
        while not self._closing.wait(_GATHER_S) or not self._waiting.empty():
            entries = [self._waiting.get_nowait() for _ in range(self._waiting.qsize())]  # nobody else takes any
            if entries:
                self._try(partial(self._write, entries))

    def _write(self, entries: Sequence[messages.Verdict | tuple[str, bytes]]) -> None:
        recent: defaultdict[str, list[bytes]] = defaultdict(list)
        with self._client.pipeline(transaction=False) as pipeline:
            for entry in entries:
                if isinstance(entry, messages.Verdict):
                    document = entry.to_json()
                    pipeline.set(f"patchline:verdict:{entry.job_id}", document, ex=self._settings.keep_verdict_s)
                    recent[f"patchline:recent:{entry.line}:{entry.category}"].append(document)
                else:
                    pipeline.set(f"patchline:picture:{entry[0]}", entry[1], ex=self._settings.keep_picture_s)
            for key, documents in recent.items():
                pipeline.lpush(key, *documents)
                pipeline.ltrim(key, 0, self._settings.keep_recent - 1)
            pipeline.execute()

    def _try(self, action: Callable[[], object]) -> object:
        if self._clock() < self._resting_until:
            return None
        try:
            return action()
        except redis.RedisError as error:
            self._resting_until = self._clock() + _REST_S
            self._on_failure()
            _log.warning("redis does not answer", why=repr(error), again_in_s=_REST_S)
            return None


def connect(settings: config.Redis, on_failure: Callable[[], None]) -> Recent:
    """Redis, or nowhere where its url is empty."""
    return RedisRecent(settings, on_failure) if settings.url else Nowhere()
