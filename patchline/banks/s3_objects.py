"""Objects in a bucket of S3, or of a server that speaks its protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from patchline.banks.objects import StoreUnavailable
from patchline.runtime.bucket import Bucket, errors_as

PAUSE_S = 5.0  # after a failure: a worker of many categories asks for each of them
QUICK_S = 10.0  # for one of the small objects: the mark, a record, a report
_LARGE = "/versions/"  # in the keys of the others


class S3Objects:
    """Implements `patchline.banks.objects.Objects`.

    A bucket that does not answer holds each request until its timeout. So small objects have a short one, and for some
    seconds after a failure all reading fails at once: a worker has to start while the store is away.

    Args:
        bucket: whose server must know conditional writes.
        quick: the same with a short timeout, for small objects; None: `bucket`.
        clock: returns seconds.
    """

    def __init__(
        self, bucket: Bucket, quick: Bucket | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bucket, self._quick, self._clock = bucket, quick or bucket, clock
        self._failure: tuple[float, str] | None = None

    def create(self, key: str, content: bytes) -> bool:
        """See `Objects`."""
        with errors_as(StoreUnavailable):
            return self._of(key).make(key, content)

    def read(self, key: str) -> bytes | None:
        """See `Objects`."""
        with self._reading():
            return self._of(key).get(key)

    def names(self, prefix: str) -> list[str]:
        """See `Objects`."""
        with self._reading():
            return [name for name in self._quick.names(prefix) if not name.startswith(".")]

    def why_closed(self, prefix: str) -> str | None:
        """See `Objects`. The rights of a user in a bucket may differ by prefix, which is not looked at."""
        with errors_as(StoreUnavailable):
            return self._quick.why_closed()

    def _of(self, key: str) -> Bucket:
        return self._bucket if _LARGE in key else self._quick

    @contextmanager
    def _reading(self) -> Iterator[None]:
        if self._failure is not None and self._clock() < self._failure[0] + PAUSE_S:
            raise StoreUnavailable(self._failure[1])
        try:
            with errors_as(StoreUnavailable):
                yield
        except StoreUnavailable as error:
            self._failure = self._clock(), str(error)
            raise
        self._failure = None
