"""A store of pictures in a bucket of S3."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from patchline.archive.store import StoreUnavailable
from patchline.runtime.bucket import Bucket, BucketError


class S3Store:
    """Implements `patchline.archive.store.Store`: an object for each digest, below its first two digits.

    Args:
        bucket: of the pictures.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def put(self, digest: str, body: bytes) -> None:
        """See `Store`."""
        with _errors():
            self._bucket.put(_key(digest), body)

    def get(self, digest: str) -> bytes | None:
        """See `Store`."""
        with _errors():
            return self._bucket.get(_key(digest))

    def delete(self, digest: str) -> None:
        """See `Store`."""
        with _errors():
            self._bucket.delete(_key(digest))

    def list(self) -> Iterator[str]:
        """See `Store`."""
        with _errors():
            yield from (key.rpartition("/")[2] for key in self._bucket.list_keys())

    def check(self) -> None:
        """See `Store`."""
        with _errors():
            self._bucket.check()


def _key(digest: str) -> str:
    return f"{digest[:2]}/{digest}"


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except BucketError as error:
        raise StoreUnavailable(str(error)) from error
