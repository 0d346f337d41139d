"""Recent verdicts and heat maps, cached in Redis. The only redis user. The line works without it."""

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
import structlog

from patchline import config
from patchline.protocol import messages, optional_imports

with optional_imports.without("opentelemetry"):  # 3 MB, for metrics that nobody asks of it
    import redis

_log = structlog.get_logger(__name__)
_RETRY_AFTER_S = 5.0  # after a failure; an unreachable Redis then costs one timeout in this period
_WRITE_INTERVAL_S = 0.2  # entries that arrive within it are written in one pipeline
_MAX_PENDING = 1000  # verdicts and pictures waiting to be written; further ones are dropped
_CLOSE_TIMEOUT_S = 1.0


class VerdictCache(Protocol):
    """Recent verdicts and heat maps by job id. No method raises when the cache is unavailable."""

    def get_verdict(self, job_id: str) -> messages.Verdict | None:
        """Return the cached verdict of a job, if there is one."""
        ...

    def save_verdict(self, verdict: messages.Verdict) -> None:
        """Cache a confirmed verdict."""
        ...

    def get_picture(self, job_id: str) -> bytes | None:
        """Return the cached heat map of a job as JPEG, if there is one."""
        ...

    def save_picture(self, job_id: str, jpeg: bytes) -> None:
        """Cache the heat map of a job."""
        ...

    def recent_verdicts(self, line: str, category: str, count: int) -> list[messages.Verdict] | None:
        """Return the last verdicts of a line and category, newest first; None if the cache does not answer."""
        ...

    def close(self) -> None:
        """Write what is still pending, within a time limit."""
        ...


class DisabledVerdictCache:
    """The cache when Redis is switched off: always empty."""

    def get_verdict(self, job_id: str) -> messages.Verdict | None:
        """Return None."""

    def save_verdict(self, verdict: messages.Verdict) -> None:
        """Do nothing."""

    def get_picture(self, job_id: str) -> bytes | None:
        """Return None."""

    def save_picture(self, job_id: str, jpeg: bytes) -> None:
        """Do nothing."""

    def recent_verdicts(self, line: str, category: str, count: int) -> list[messages.Verdict] | None:
        """Return None."""

    def close(self) -> None:
        """Do nothing."""


class RedisVerdictCache:
    """Write-behind: a background thread writes the entries in batches, so a slow Redis never blocks a lane.

    Keys, all with a time to live or a maximum length:
        `patchline:verdict:<job id>`: the verdict as JSON.
        `patchline:picture:<job id>`: the heat map as JPEG.
        `patchline:recent:<line>:<category>`: a list of verdicts, newest first.
    """

    def __init__(
        self, settings: config.Redis, on_failure: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._on_failure = on_failure
        self._clock = clock
        self._retry_at = 0.0
        files = {"ca_certs": settings.ca_file, "certfile": settings.cert_file, "keyfile": settings.key_file}
        self._client = redis.Redis.from_url(
            settings.url,
            **{f"ssl_{name}": str(file) for name, file in files.items() if file is not None},
            socket_timeout=settings.timeout_s,
            socket_connect_timeout=settings.timeout_s,
            retry=None,
        )
        self._pending: queue.Queue[messages.Verdict | tuple[str, bytes]] = queue.Queue(_MAX_PENDING)
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._write_pending, name="verdict-cache", daemon=True)
        self._writer.start()

    def get_verdict(self, job_id: str) -> messages.Verdict | None:
        """See `VerdictCache`."""
        document = self._try(lambda: self._client.get(f"patchline:verdict:{job_id}"))
        return _parse(document) if isinstance(document, bytes) else None

    def save_verdict(self, verdict: messages.Verdict) -> None:
        """See `VerdictCache`."""
        self._enqueue(verdict)

    def get_picture(self, job_id: str) -> bytes | None:
        """See `VerdictCache`."""
        jpeg = self._try(lambda: self._client.get(f"patchline:picture:{job_id}"))
        return jpeg if isinstance(jpeg, bytes) else None

    def save_picture(self, job_id: str, jpeg: bytes) -> None:
        """See `VerdictCache`."""
        self._enqueue((job_id, jpeg))

    def recent_verdicts(self, line: str, category: str, count: int) -> list[messages.Verdict] | None:
        """See `VerdictCache`."""
        documents = self._try(lambda: self._client.lrange(f"patchline:recent:{line}:{category}", 0, count - 1))
        if not isinstance(documents, list):
            return None
        return [verdict for verdict in map(_parse, documents) if verdict is not None]

    def close(self) -> None:
        """See `VerdictCache`."""
        self._closing.set()
        self._writer.join(_CLOSE_TIMEOUT_S)

    def _enqueue(self, entry: messages.Verdict | tuple[str, bytes]) -> None:
        with suppress(queue.Full):
            self._pending.put_nowait(entry)

    def _write_pending(self) -> None:
        while not self._closing.wait(_WRITE_INTERVAL_S) or not self._pending.empty():
            entries = [self._pending.get_nowait() for _ in range(self._pending.qsize())]  # this thread alone gets
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
                    job_id, jpeg = entry
                    pipeline.set(f"patchline:picture:{job_id}", jpeg, ex=self._settings.keep_picture_s)
            for key, documents in recent.items():
                pipeline.lpush(key, *documents)
                pipeline.ltrim(key, 0, self._settings.keep_recent - 1)
            pipeline.execute()

    def _try(self, command: Callable[[], object]) -> object:
        if self._clock() < self._retry_at:
            return None
        try:
            return command()
        except redis.RedisError as error:
            self._retry_at = self._clock() + _RETRY_AFTER_S
            self._on_failure()
            _log.warning("Redis does not answer", error=repr(error), retry_in_s=_RETRY_AFTER_S)
            return None


def _parse(document: bytes) -> messages.Verdict | None:
    try:
        return messages.Verdict.model_validate_json(document, extra=messages.UNKNOWN_FIELDS)
    except pydantic.ValidationError:
        return None  # written by another version


def connect(settings: config.Redis, on_failure: Callable[[], None]) -> VerdictCache:
    """Return the cache of the configuration; an empty url disables it.

    Args:
        settings: the server, and how long entries are kept.
        on_failure: called each time that Redis does not answer.

    Raises:
        SetupError: the url is not encrypted but files for TLS are set, or a file cannot be used.
    """
    if not settings.url:
        return DisabledVerdictCache()
    settings.certificates.check("redis", settings.url)
    return RedisVerdictCache(settings, on_failure)
