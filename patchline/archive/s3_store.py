"""A store of pictures in a bucket of S3."""

from __future__ import annotations

import re
from collections.abc import Iterator

from patchline.archive.store import StoreUnavailable
from patchline.runtime.bucket import Bucket, errors_as

_DIGEST = re.compile(r"[0-9a-f]{64}")


class S3Store:
    """Implements `patchline.archive.store.Store`: an object for each digest, below its first two digits.

    Args:
        bucket: of the pictures.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def put(self, digest: str, body: bytes) -> None:
        """See `Store`."""
        with errors_as(StoreUnavailable):
            self._bucket.put(_key(digest), body)

    def get(self, digest: str) -> bytes | None:
        """See `Store`."""
        with errors_as(StoreUnavailable):
            return self._bucket.get(_key(digest))

    def delete(self, digest: str) -> None:
        """See `Store`."""
        with errors_as(StoreUnavailable):
            self._bucket.delete(_key(digest))

    def list(self) -> Iterator[str]:
        """See `Store`."""
        with errors_as(StoreUnavailable):
            names = (key.rpartition("/")[2] for key in self._bucket.list_keys())
            yield from (name for name in names if _DIGEST.fullmatch(name))

    def check(self) -> None:
        """See `Store`."""
        with errors_as(StoreUnavailable):
            self._bucket.check()

    def check_writing(self) -> None:
        """See `Store`."""
        with errors_as(StoreUnavailable):
            self._bucket.check_writing()


def _key(digest: str) -> str:
    return f"{digest[:2]}/{digest}"
