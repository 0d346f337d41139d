"""A store of pictures in S3, or in a server that speaks its protocol. The only obstore user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from patchline.archive.store import StoreUnavailable
from patchline.protocol import secret_files
from patchline.protocol.errors import SetupError

try:
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import S3Store as Bucket
except ImportError as missing:
    raise SetupError(f"{missing.name} is not installed; S3 needs: pip install 'patchline[s3]'") from missing

if TYPE_CHECKING:
    from obstore.store import S3Config

# Of one request. A picture has up to 80 MB.
_CONNECT, _REQUEST = timedelta(seconds=5), timedelta(seconds=60)
_RETRIES, _RETRYING = 2, timedelta(seconds=10)


class S3Store:
    """Implements `patchline.archive.store.Store`: an object for each digest, below its first two digits.

    The keys are those of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or of the files that the same names with the
    suffix _FILE name. Without them, obstore looks for those of the machine, as Amazon's tools do.

    Args:
        url: s3://BUCKET or s3://BUCKET/FOLDER. The bucket must exist.
        endpoint: of a server that is not Amazon's.
        region: of the bucket.

    Raises:
        SetupError: a file with a key cannot be read, or the url or endpoint cannot be used.
    """

    def __init__(self, url: str, endpoint: str | None = None, region: str = "us-east-1") -> None:
        bucket, _, folder = url.removeprefix("s3://").partition("/")
        self._name = url
        try:
            self._bucket = Bucket(
                bucket,
                prefix=folder.strip("/") or None,
                config=_config(endpoint, region),
                client_options={
                    "allow_http": (endpoint or "").startswith("http://"),
                    "connect_timeout": _CONNECT,
                    "timeout": _REQUEST,
                },
                retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRYING},
            )
        except (BaseError, ValueError) as error:
            raise SetupError(f"{url}: cannot be used ({_text(error)})") from error

    def put(self, digest: str, body: bytes) -> None:
        """See `Store`."""
        with self._errors():
            obstore.put(self._bucket, _key(digest), body, use_multipart=False)

    def get(self, digest: str) -> bytes | None:
        """See `Store`."""
        with self._errors():
            try:
                return bytes(obstore.get(self._bucket, _key(digest)).bytes())
            except FileNotFoundError:
                self.check()  # or the bucket is missing
                return None

    def delete(self, digest: str) -> None:
        """See `Store`."""
        with self._errors(), suppress(FileNotFoundError):
            obstore.delete(self._bucket, _key(digest))

    def list(self) -> Iterator[str]:
        """See `Store`."""
        with self._errors():
            for objects in obstore.list(self._bucket):
                yield from (str(item["path"]).rpartition("/")[2] for item in objects)

    def check(self) -> None:
        """See `Store`."""
        with self._errors():
            next(iter(obstore.list(self._bucket, chunk_size=1)), None)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            raise StoreUnavailable(f"{self._name}: {_text(error)}") from error


def _config(endpoint: str | None, region: str) -> S3Config:
    config: S3Config = {"region": region}
    if endpoint is not None:
        config["endpoint"] = endpoint.rstrip("/")
    if (user := secret_files.secret("AWS_ACCESS_KEY_ID")) is not None:
        config["access_key_id"] = user
    if (key := secret_files.secret("AWS_SECRET_ACCESS_KEY")) is not None:
        config["secret_access_key"] = key
    return config


def _key(digest: str) -> str:
    return f"{digest[:2]}/{digest}"


def _text(error: Exception) -> str:
    """Return the first line of an error, without the source lines of Rust that may follow."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
