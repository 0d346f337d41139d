"""The parts that are announced and not answered for: one JSON object a line, on disk before the announcement.

If the process is ended, the next one says of each that there is no image. The file survives SIGKILL. It is not synced,
so it may lose its last lines in a power failure; the gate rejects such parts at their deadline.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import structlog

from patchline.protocol.errors import PatchlineError, SetupError
from patchline.protocol.messages import UNKNOWN_FIELDS, Job
from patchline.runtime import damage, locks

_log = structlog.get_logger(__name__)
_MAX_BYTES = 1_000_000
_MAX_NAMES = 20


class PartsLeftError(PatchlineError):
    """The process ends, and announced parts have no jobs. The text names them."""

    exit_code = 1


class OpenParts:
    """The open parts of one line and category. Thread-safe. Only one process may use the file.

    Args:
        path: the file; created if missing.
        max_bytes: a file that is larger is written anew, without the parts that are done.

    Raises:
        SetupError: another process uses the file, or it cannot be used.
        DamagedError: it is damaged and cannot be replaced.
    """

    def __init__(self, path: Path, max_bytes: int = _MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._failed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._claim = locks.claim(
                path.with_name(path.name + ".lock"), f"{path}: another process runs the camera of this line"
            )
            self._jobs = _read(path)
            self._file = self._open(path)
        except OSError as error:
            advice = "move it away; the gate rejects its parts at their deadlines"
            raise SetupError(f"{path}: cannot be used for the open parts ({error}); {advice}") from error
        self.left = tuple(self._jobs.values())

    def add(self, job: Job) -> None:
        """Write a part, before it is announced."""
        with self._lock:
            self._jobs[job.job_id] = job
            self._write(_opened(job))

    def remove(self, job_id: str) -> None:
        """Write that the job of a part is with the broker or in the spool."""
        with self._lock:
            if self._jobs.pop(job_id, None) is None:
                return
            if not self._jobs:
                os.ftruncate(self._file, 0)
            else:
                self._write(json.dumps({"closed": job_id}).encode() + b"\n")
                if os.fstat(self._file).st_size > self._max_bytes:
                    self._rewrite()

    def __len__(self) -> int:
        return len(self._jobs)

    def require_none(self, advice: str) -> None:
        """Check that no part is open.

        Raises:
            PartsLeftError: some are. The text names them, and ends with the advice.
        """
        with self._lock:
            names = [job.part_id for job in self._jobs.values()]
        if names:
            shown = ", ".join(names[:_MAX_NAMES]) + (f" and {len(names) - _MAX_NAMES} more" * (len(names) > _MAX_NAMES))
            raise PartsLeftError(
                f"{len(names)} announced parts have no job: neither RabbitMQ nor the spool took it ({shown}). "
                f"The gate rejects them at their deadlines, and {advice}"
            )

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
        os.close(self._claim)

    def _open(self, path: Path) -> int:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _write(self, line: bytes) -> None:
        """Append a line. A camera does not stop for a full disk: the gate rejects parts without a verdict."""
        data = b"\n" + line if self._failed else line  # the line before may be torn
        try:
            if os.write(self._file, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if not self._failed:
                _log.error("open parts cannot be written", path=str(self._path), reason=error.strerror)
            self._failed = True
        else:
            self._failed = False

    def _rewrite(self) -> None:
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            fresh.write_bytes(b"".join(map(_opened, self._jobs.values())))
            fresh.replace(self._path)
            file = self._open(self._path)
        except OSError as error:
            _log.error("open parts cannot be rewritten", path=str(self._path), reason=error.strerror)
        else:
            os.close(self._file)
            self._file = file


def _opened(job: Job) -> bytes:
    return b'{"open":' + job.model_dump_json(exclude_none=True).encode() + b"}\n"


def _read(path: Path) -> dict[str, Job]:
    """Return the open parts of a file. One that is damaged is set aside, and a torn last line is removed.

    A part whose line cannot be read is rejected by the gate at its deadline.
    """
    jobs: dict[str, Job] = {}
    if not path.exists():
        return jobs
    *lines, torn = path.read_bytes().split(b"\n")
    readable = [line for line in lines if not line or _apply(line, jobs)]
    if torn or len(readable) < len(lines):
        damage.replace_text(path, b"".join(line + b"\n" for line in readable), len(lines) - len(readable))
    return jobs


def _apply(line: bytes, jobs: dict[str, Job]) -> bool:
    """Apply a line to the open parts. Return False if it cannot be read."""
    try:
        record = json.loads(line)
        if "open" in record:
            job = Job.model_validate(record["open"], extra=UNKNOWN_FIELDS)
            jobs[job.job_id] = job
        else:
            jobs.pop(record["closed"], None)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return True
