"""Objects in a bucket of S3, or of a server that speaks its protocol."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from patchline.banks.objects import StoreUnavailable
from patchline.runtime.bucket import Bucket, BucketError


class S3Objects:
    """Implements `patchline.banks.objects.Objects`.

    Args:
        bucket: whose server must know conditional writes.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    def create(self, key: str, content: bytes) -> bool:
        """See `Objects`."""
        with _errors():
            return self._bucket.make(key, content)

    def read(self, key: str) -> bytes | None:
        """See `Objects`."""
        with _errors():
            return self._bucket.get(key)

    def names(self, prefix: str) -> list[str]:
        """See `Objects`."""
        with _errors():
            return [name for name in self._bucket.names(prefix) if not name.startswith(".")]

    def why_closed(self, prefix: str) -> str | None:
        """See `Objects`. The rights of a user in a bucket may differ by prefix, which is not looked at."""
        with _errors():
            return self._bucket.why_closed()


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except BucketError as error:
        raise StoreUnavailable(str(error)) from error
