"""A form with files (RFC 7578), written to disk as it comes. The only werkzeug user.

Nothing is kept of what exceeds a limit, and no file is read into memory.
"""

from __future__ import annotations

import hashlib
import hmac
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from patchline.console.texts import mark
from patchline.console.visit import Received, Refused, Values
from patchline.runtime import disk

_MOST_MEMORY = 4_194_304  # of one piece, as the server gives it
_MOST_FIELDS = 20
_MOST_FIELD_BYTES = 4_096
_OVERHEAD = 4_096  # of each file: its headers
_MOST_REFUSED = 1_000  # files beyond the limit that are named
_TOO_LARGE = mark("These are more bytes than there is room for. Send fewer pictures at once.")


@dataclass(frozen=True)
class Limits:
    """What a form may send.

    Attributes:
        folder: for the files, until the page has taken them.
        files: their number. Further ones are refused by name.
        file_bytes: of each file. A larger one is refused by name.
        all_bytes: of the whole form, which is refused if it has more.
    """

    folder: Path
    files: int
    file_bytes: int
    all_bytes: int


class Receiver:
    """Takes a form piece by piece. Not thread-safe.

    Args:
        content_type: of the request.
        length: as the request says it; None if it does not.
        csrf: the token that the form must send before its first file.
        limits: see there.

    Raises:
        Refused: it is no such form, or too large.
        SetupError: the folder cannot be written.
    """

    def __init__(self, content_type: str, length: int | None, csrf: str, limits: Limits) -> None:
        kind, options = parse_options_header(content_type)
        if kind != "multipart/form-data" or not options.get("boundary"):
            raise Refused(400)
        self._limits, self._csrf = limits, csrf
        self._most = limits.all_bytes + _OVERHEAD * (limits.files + _MOST_FIELDS)
        if length is not None and length > self._most:
            raise Refused(413, _TOO_LARGE)
        parts = limits.files + _MOST_FIELDS + _MOST_REFUSED
        self._decoder = MultipartDecoder(options["boundary"].encode(), _MOST_MEMORY, max_parts=parts)
        self._taken, self._held = 0, b""
        self._fields: dict[str, list[bytes]] = {}
        self._field: str | None = None
        self._files: list[Received] = []
        self._file: BinaryIO | None = None
        self._file_bytes, self._digest = 0, hashlib.sha256()
        try:
            limits.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(dir=limits.folder))
        except OSError as error:
            raise disk.unwritable(limits.folder, error) from error

    def feed(self, piece: bytes) -> None:
        """Take the next bytes. See the class for the errors."""
        self._taken += len(piece)
        if self._taken > self._most:
            raise Refused(413, _TOO_LARGE)
        try:
            self._decoder.receive_data(self._whole(piece))
            while not isinstance(event := self._decoder.next_event(), NeedData | Epilogue):
                self._take(event)
        except RequestEntityTooLarge as error:
            raise Refused(413, _TOO_LARGE) from error
        except ValueError as error:
            raise Refused(400) from error
        except OSError as error:
            raise disk.unwritable(self._folder, error) from error

    def _whole(self, piece: bytes) -> bytes:
        """Return a piece that does not end between the hyphens behind a boundary; the first comes with the next piece.

        Otherwise the part before the boundary gets a byte too many (findings/werkzeug-multipart-split.sh).
        """
        piece, boundary = self._held + piece, self._decoder.boundary
        end = (bytes(self._decoder.buffer[-len(boundary) :]) + piece)[-len(boundary) - 1 :]
        self._held = piece[-1:] if end == boundary + b"-" else b""
        return piece.removesuffix(self._held)

    def fields(self) -> Values:
        """Return the fields of the form."""
        return {name: tuple(one.decode(errors="replace") for one in sent) for name, sent in self._fields.items()}

    def files(self) -> tuple[Received, ...]:
        """Return the files, once the form has ended. Raises Refused: it has not."""
        if not self._decoder.state.name == "EPILOGUE":
            raise Refused(400)
        return tuple(self._files)

    def close(self) -> None:
        """Delete what the page has left."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _take(self, event: object) -> None:
        if isinstance(event, Field):
            self._begin_field(event.name or "")
        elif isinstance(event, File):
            self._begin_file(event.filename)
        elif isinstance(event, Data):
            (self._append if self._field is not None else self._write)(event.data)
            if not event.more_data:
                self._end_part()

    def _begin_field(self, name: str) -> None:
        if sum(map(len, self._fields.values())) >= _MOST_FIELDS:
            raise Refused(413)
        self._field = name
        self._fields.setdefault(name, []).append(b"")

    def _append(self, data: bytes) -> None:
        values = self._fields[self._field or ""]
        values[-1] += data
        if len(values[-1]) > _MOST_FIELD_BYTES:
            raise Refused(413)

    def _begin_file(self, name: str) -> None:
        sent = (self.fields().get("csrf") or ("",))[0]
        if not hmac.compare_digest(sent.encode(), self._csrf.encode()):
            raise Refused(403, mark("The form was not made for this log-in. Load the page again."))
        self._field, self._file_bytes, self._digest = None, 0, hashlib.sha256()
        path = self._folder / str(len(self._files))
        if not name:  # the field for files was left empty
            self._files.append(Received("", None))
        elif sum(one.path is not None for one in self._files) >= self._limits.files:
            self._files.append(Received(name, None, mark("there are too many pictures")))
        else:
            self._files.append(Received(name, path))
            self._file = path.open("xb")

    def _write(self, data: bytes) -> None:
        if self._file is None:
            return
        self._file_bytes += len(data)
        if self._file_bytes > self._limits.file_bytes:
            self._end_part()
            last = self._files[-1]
            if last.path is not None:
                last.path.unlink()
            self._files[-1] = Received(last.name, None, mark("it is larger than images.max_bytes allows"))
            return
        self._file.write(data)
        self._digest.update(data)

    def _end_part(self) -> None:
        if self._file is not None:
            self._file.close()
            self._files[-1] = replace(self._files[-1], digest=self._digest.hexdigest())
        self._field = self._file = None
