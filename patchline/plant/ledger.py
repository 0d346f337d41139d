"""What happened at a belt: events as lines of JSON, written by the simulator and read while it runs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import IO, Any

Event = dict[str, Any]


class Ledger:
    """Writes events, each with the time of CLOCK_MONOTONIC, which all processes share."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def record(self, kind: str, **values: object) -> None:
        """Write one event."""
        self._file.write(json.dumps({"at": round(time.monotonic(), 4), "kind": kind, **values}) + "\n")

    def flush(self) -> None:
        """Hand over to the disk what was recorded."""
        self._file.flush()


class LedgerReader:
    """Reads a ledger while it is written. The file need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset, self._rest = path, 0, b""

    def read(self) -> list[Event]:
        """Return the events that were written since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line) for line in lines]
