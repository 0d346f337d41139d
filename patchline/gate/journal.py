"""What a gate is about to do, and has done: one JSON object a line, appended before and after each act.

It also says of which acts the other gates have been told: a gate that was killed tells the rest when it starts again.

The journal is written with plain writes: it survives SIGKILL, and a disk that hangs does not delay the acts. It is not
synced, so it may lose its last lines in a power failure. The memory (`memory.py`) keeps what is done for longer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from patchline.gate.journal_file import JournalFile
from patchline.gate.journal_writer import JournalWriter
from patchline.protocol.errors import SetupError
from patchline.protocol.gate_messages import ActionRecord
from patchline.runtime import damage

_MAX_BYTES = 1_000_000
_FEW = 1000  # acts that fit into a new file
_STARTS = re.compile(rb'(?=\{"(?:intent|done|told)":\{)')  # of a line; the text of a field has \" instead of "


class Journal:
    """The journal of one gate instance. A full journal moves to `<path>.old` until the memory has its contents.

    Args:
        path: the file.
        on_failure: called after each line that was not written, and after each new file that could not be made.
        max_bytes: the size from which it is full.

    Raises:
        SetupError: the file cannot be used.
        DamagedError: it is damaged and cannot be replaced.
    """

    def __init__(self, path: Path, on_failure: Callable[[], None] = lambda: None, max_bytes: int = _MAX_BYTES) -> None:
        self._rotating = self._has_new = False
        try:
            self._intended, self._done, self._untold = _read([path.with_name(path.name + ".old"), path])
            self._file = JournalFile(path, max_bytes, on_failure)
        except OSError as error:
            raise SetupError(f"{path}: cannot be used as a gate's journal ({error})") from error
        self._writer = JournalWriter()

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
        self._write(_line("intent", record))

    def write_done(self, record: ActionRecord) -> None:
        """Write that an action is done."""
        self._untold[record.job_id] = record
        self._write(_line("done", record))

    def write_told(self, record: ActionRecord) -> None:
        """Write that the other gates have been told of an action that is done."""
        if self._untold.pop(record.job_id, None) is not None:
            self._write(_line("told", record))

    def rotate(self, enqueue: Callable[[Callable[[], None]], None]) -> None:
        """Start a new file if this one is large. No action may be under way.

        What RabbitMQ may not know goes into the new file. During an outage that is too much: the file grows. So it does
        while no new file can be made.

        Args:
            enqueue: runs a task once the memory has saved everything up to now.
        """
        may_begin = not self._rotating and not self._writer.hangs and len(self._untold) <= _FEW
        if may_begin and self._file.is_large:
            self._rotating = True
            self._writer.run(partial(self._begin, [_line("done", record) for record in self._untold.values()]))
        if self._has_new:
            self._has_new = False
            enqueue(self._delete_old)

    def close(self) -> None:
        """Close the file."""
        if self._writer.close():
            self._file.close()

    def _begin(self, first_lines: list[bytes]) -> None:
        self._rotating = self._has_new = self._file.rotate(first_lines)

    def _delete_old(self) -> None:
        self._file.delete_old()
        self._rotating = False

    def _write(self, line: bytes) -> None:
        if not self._writer.run(partial(self._file.append, line)):
            self._file.hangs()


def _line(kind: str, record: ActionRecord) -> bytes:
    return b'{"%b":%b}\n' % (kind.encode(), record.to_json())


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
    """Return the records of a file. A damaged one is set aside, and a torn last line is removed.

    A torn line of an earlier build has the next one behind it: that one is read.
    """
    *joined, torn = path.read_bytes().split(b"\n")
    lines = [line for several in joined for line in _STARTS.split(several) if line]
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
