"""The output of a gate without an arm: each action is a line on standard output."""

from __future__ import annotations

import os
import select

from patchline.gate.outputs import OutputError, OutputState
from patchline.protocol.gate_messages import ActionRecord

_STANDARD_OUTPUT = 1
_PATIENCE_S = 0.05  # with a full pipe: the gate makes no steps meanwhile
_PIECE = select.PIPE_BUF  # bytes: what a pipe that can be written takes without a wait (pipe(7))


class DryRunOutput:
    """Prints each action. There is no arm.

    A reader that stops reading fills the pipe. Then the arm counts as out of order: a write would keep the gate from
    hearing its line.

    Args:
        descriptor: the file to write to. The buffer of `sys.stdout` is left out: a process writes it when it ends.
    """

    def __init__(self, descriptor: int = _STANDARD_OUTPUT) -> None:
        self._descriptor = descriptor
        self._unwritten = b""  # the rest of a line

    def act(self, action: ActionRecord) -> None:
        """See `Output`."""
        self.check()
        line = self._unwritten = action.to_json() + b"\n"
        try:
            self._write()
        except OutputError:
            if self._unwritten == line:  # nothing of it was written: the next attempt prints it once
                self._unwritten = b""
            raise

    def tell(self, state: OutputState) -> None:
        """See `Output`. Prints nothing."""

    def check(self) -> None:
        """See `Output`. A line that was begun is completed first."""
        self._write()
        self._require_room()

    def close(self) -> None:
        """See `Output`."""

    def _write(self) -> None:
        while self._unwritten:
            self._require_room()
            try:
                written = os.write(self._descriptor, self._unwritten[:_PIECE])
            except OSError as error:
                raise OutputError(f"standard output cannot be written ({error.strerror})") from error
            self._unwritten = self._unwritten[written:]

    def _require_room(self) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        if not poll.poll(_PATIENCE_S * 1000):
            raise OutputError("standard output is full: its reader does not read")
