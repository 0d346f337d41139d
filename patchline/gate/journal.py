"""What a gate is about to do, and has done: one JSON object a line, appended before and after each act.

It also says of which acts the other gates have been told: a gate that was killed tells the rest when it starts again.

The journal is written with plain writes: it survives SIGKILL, and a hanging disk does not delay the acts. It is not
synced, so it may lose its last lines in a power failure. The memory (`memory.py`) keeps what is done for longer.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import structlog

from patchline.protocol.errors import SetupError
from patchline.protocol.gate_messages import ActionRecord
from patchline.runtime import damage

_log = structlog.get_logger(__name__)
_MAX_BYTES = 1_000_000
_FEW = 1000  # acts that fit into a new file


class Journal:
    """The journal of one gate instance. A full journal moves to `<path>.old` until the memory has its contents.

    Raises:
        SetupError: the file cannot be used.
        DamagedError: it is damaged and cannot be replaced.
    """

    def __init__(self, path: Path, max_bytes: int = _MAX_BYTES) -> None:
        self._path = path
        self._old = path.with_name(path.name + ".old")
        self._max_bytes = max_bytes
        self._last_write_succeeded = True
        self._rotating = False
        try:
            self._intended, self._done, self._untold = _read([self._old, path])
            self._file = self._open()
        except OSError as error:
            raise SetupError(f"{path}: cannot be used as a gate's journal ({error})") from error

    @property
    def intended(self) -> list[ActionRecord]:
        """The actions that an earlier process began and did not complete."""
        return list(self._intended.values())

    @property
    def done(self) -> list[ActionRecord]:
        """The actions that an earlier process completed; the memory may not have all of them."""
        return self._done

    @property
    def untold(self) -> list[ActionRecord]:
        """The actions that are done, and of which RabbitMQ may not know."""
        return list(self._untold.values())

    def write_intent(self, record: ActionRecord) -> None:
        """Write what is about to be done."""
        self._write(b'{"intent":' + record.to_json() + b"}\n")

    def write_done(self, record: ActionRecord) -> None:
        """Write that an action is done."""
        self._untold[record.job_id] = record
        self._write(b'{"done":' + record.to_json() + b"}\n")

    def write_told(self, record: ActionRecord) -> None:
        """Write that the other gates have been told of an action that is done."""
        if self._untold.pop(record.job_id, None) is not None:
            self._write(b'{"told":' + record.to_json() + b"}\n")

    def rotate(self, enqueue: Callable[[Callable[[], None]], None]) -> None:
        """Start a new file if this one is large. No action may be under way.

        What RabbitMQ may not know goes into the new file. During an outage that is too much: the file grows.

        Args:
            enqueue: runs a task once the memory has saved everything up to now.
        """
        if self._rotating or len(self._untold) > _FEW or os.fstat(self._file).st_size < self._max_bytes:
            return
        self._rotating = True
        self._path.replace(self._old)
        os.close(self._file)
        self._file = self._open()
        for record in self._untold.values():
            self.write_done(record)
        enqueue(self._delete_old)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _delete_old(self) -> None:
        self._old.unlink(missing_ok=True)
        self._rotating = False

    def _write(self, line: bytes) -> None:
        try:
            os.write(self._file, line)
        except OSError as error:
            if self._last_write_succeeded:  # log the first failure only, not one per part
                _log.error("gate journal cannot be written", path=str(self._path), reason=error.strerror)
            self._last_write_succeeded = False
        else:
            self._last_write_succeeded = True


def _read(paths: list[Path]) -> tuple[dict[str, ActionRecord], list[ActionRecord], dict[str, ActionRecord]]:
    """Return the intended actions by job id, those that are done, and those of them that RabbitMQ may not know."""
    intended: dict[str, ActionRecord] = {}
    done: dict[str, ActionRecord] = {}
    untold: dict[str, ActionRecord] = {}
    for path in paths:
        for kind, record in _read_one(path) if path.exists() else []:
            if kind == "intent":
                intended[record.job_id] = record
            elif kind == "told":
                untold.pop(record.job_id, None)
            else:
                intended.pop(record.job_id, None)
                done[record.job_id] = untold[record.job_id] = record
    return intended, list(done.values()), untold


def _read_one(path: Path) -> list[tuple[str, ActionRecord]]:
    """Return the records of a file. A damaged one is set aside, and a torn last line is removed."""
    *lines, torn = path.read_bytes().split(b"\n")
    records = [_parse(line) for line in lines]
    readable = [line for line, record in zip(lines, records, strict=True) if record is not None]
    if torn or len(readable) < len(lines):
        damage.replace_text(path, b"".join(line + b"\n" for line in readable), len(lines) - len(readable))
    return [record for record in records if record is not None]


def _parse(line: bytes) -> tuple[str, ActionRecord] | None:
    try:
        ((kind, fields),) = json.loads(line).items()
        return str(kind), ActionRecord.model_validate(fields)
    except (ValueError, AttributeError, RecursionError):
        return None
