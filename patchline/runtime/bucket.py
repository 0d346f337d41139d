"""Objects in a bucket of S3, or of a server that speaks its protocol. The only obstore user."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from patchline.protocol import secret_files
from patchline.protocol.errors import SetupError

try:
    import obstore
    from obstore.exceptions import AlreadyExistsError, BaseError
    from obstore.store import S3Store
except ImportError as missing:
    raise SetupError(f"{missing.name} is not installed; S3 needs: pip install 'patchline[s3]'") from missing

if TYPE_CHECKING:
    from obstore.store import S3Config

REQUEST_S = 60.0  # for one request: an object has up to some 100 MB
_CONNECT = timedelta(seconds=5)
_RETRIES, _RETRYING = 2, timedelta(seconds=10)
_MAKER = "patchline-maker"  # metadata of an object that was made: who made it
_PROBE, _TRIAL = ".conditional-put", ".doctor"
_TEXT = 300  # characters of an error


class BucketError(Exception):
    """The bucket does not answer, does not exist, or refuses. The text has one line, and no secret."""


@contextmanager
def errors_as(kind: type[Exception]) -> Iterator[None]:
    """Raise another error for those of a bucket: that of the store which is in it."""
    try:
        yield
    except BucketError as error:
        raise kind(str(error)) from error


class Bucket:
    """Objects by their keys, such as `gasket/log/00000001.json`. Thread-safe. All methods raise BucketError.

    The keys of the user are those of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or of the files that the same names
    with the suffix _FILE name. Without them, obstore looks for those of the machine, as Amazon's tools do.

    Args:
        url: s3://BUCKET or s3://BUCKET/FOLDER. The bucket must exist.
        endpoint: of a server that is not Amazon's.
        region: of the bucket.
        request_s: the time for one request.

    Raises:
        SetupError: a file with a key cannot be read, or the url or endpoint cannot be used.
    """

    def __init__(
        self, url: str, endpoint: str | None = None, region: str = "us-east-1", request_s: float = REQUEST_S
    ) -> None:
        bucket, _, folder = url.removeprefix("s3://").partition("/")
        self._name, self._is_conditional = url, False
        try:
            self._store = S3Store(
                bucket,
                prefix=folder.strip("/") or None,
                config=_config(endpoint, region),
                client_options={
                    "allow_http": (endpoint or "").startswith("http://"),
                    "connect_timeout": _CONNECT,
                    "timeout": timedelta(seconds=request_s),
                },
                retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRYING},
            )
        except (BaseError, ValueError) as error:
            raise SetupError(f"{url}: cannot be used ({_text(error)})") from error

    def put(self, key: str, body: bytes) -> None:
        """Store an object, in the place of one of the same key."""
        with self._errors():
            obstore.put(self._store, key, body, use_multipart=False)

    def make(self, key: str, body: bytes) -> bool:
        """Store an object if there is none of this key, and return True; else change nothing, and return False.

        It is PUT with `If-None-Match: *` (Amazon S3, "Conditional writes"). A server may have done it although its
        answer was lost, so an object says in its metadata who made it.

        Raises:
            BucketError: also if the server does not know conditional writes. If the text says so, it is not known
                whether the object was made.
        """
        with self._errors():
            self._require_conditional_writes()
            return self._make(key, body)

    def get(self, key: str) -> bytes | None:
        """Return an object, or None if there is none of this key."""
        with self._errors():
            try:
                return bytes(obstore.get(self._store, key).bytes())
            except FileNotFoundError as error:
                if "NoSuchKey" not in str(error):
                    self.check()  # or the bucket is missing
                return None

    def delete(self, key: str) -> None:
        """Delete an object, if there is one."""
        with self._errors(), suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    def list_keys(self) -> Iterator[str]:
        """Yield the keys of all objects, in any order."""
        with self._errors():
            for objects in obstore.list(self._store):
                yield from (str(item["path"]) for item in objects)

    def names(self, folder: str) -> list[str]:
        """Return the parts of the keys that follow `folder/`, in order; all first parts for ""."""
        with self._errors():
            found = obstore.list_with_delimiter(self._store, prefix=folder or None)
            paths = [*found["common_prefixes"], *(str(item["path"]) for item in found["objects"])]
        return sorted(path.rpartition("/")[2] for path in paths)

    def check(self) -> None:
        """Ask the bucket for a sign of life."""
        with self._errors():
            next(iter(obstore.list(self._store, chunk_size=1)), None)

    def check_writing(self) -> None:
        """Write an object, and delete it."""
        self.put(_TRIAL, b"")
        self.delete(_TRIAL)

    def why_closed(self) -> str | None:
        """Return why this user may not make objects; None if that is allowed.

        Raises:
            BucketError: the server knows no conditional writes, so nobody may.
        """
        with self._errors():
            try:
                self._require_conditional_writes()
            except (BaseError, OSError) as error:
                return f"{self._name}: {_text(error)}"
            return None

    def _require_conditional_writes(self) -> None:
        """Make an object twice, once for each process. The second time must be refused."""
        if self._is_conditional:
            return
        self._make(_PROBE, b"")
        if self._make(_PROBE, b""):
            raise BucketError(
                f"{self._name}: its server knows no conditional writes (PUT with If-None-Match), so two people could "
                "act at once without knowing; use a server that does, or a folder"
            )
        self._is_conditional = True

    def _make(self, key: str, body: bytes) -> bool:
        maker = secrets.token_hex(16)
        try:
            obstore.put(self._store, key, body, mode="create", use_multipart=False, attributes={_MAKER: maker})
        except (BaseError, OSError) as error:
            if self._was_made_by(maker, key, error):  # by an attempt whose answer was lost
                return True
            if isinstance(error, AlreadyExistsError):
                return False
            raise
        return True

    def _was_made_by(self, maker: str, key: str, error: Exception) -> bool:
        try:
            return obstore.get(self._store, key).attributes.get(_MAKER) == maker
        except FileNotFoundError:
            raise error from None
        except (BaseError, OSError):
            text = f"{self._name}: {_text(error)}; whether it was done is not known, so look"
            raise BucketError(text) from error

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            raise BucketError(f"{self._name}: {_text(error)}") from error


def _config(endpoint: str | None, region: str) -> S3Config:
    config: S3Config = {"region": region}
    if endpoint is not None:
        config["endpoint"] = endpoint.rstrip("/")
    if (user := secret_files.secret("AWS_ACCESS_KEY_ID")) is not None:
        config["access_key_id"] = user
    if (key := secret_files.secret("AWS_SECRET_ACCESS_KEY")) is not None:
        config["secret_access_key"] = key
    return config


def _text(error: Exception) -> str:
    """Return the first line of an error, without the source lines of Rust that may follow."""
    lines = str(error).strip().splitlines()
    return lines[0][:_TEXT] if lines else type(error).__name__
