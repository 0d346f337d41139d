"""The outputs of a gate: what tells the arm to accept or reject a part."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Protocol

from patchline.devices.child_process import UnkillableProcesses
from patchline.protocol.errors import SetupError
from patchline.protocol.gate_messages import ActionRecord

_END_TIMEOUT_S = 2.0


class OutputError(Exception):
    """The arm has not acknowledged. It may or may not have acted: the same action is tried again."""


@dataclass(frozen=True)
class OutputState:
    """What a gate says of itself to its arm.

    Attributes:
        blind: the gate hears nothing of its line.
        busy: parts are expected, or actions are due.
        faulty: the arm has not acknowledged the last action.
        stop_line: the line should stop, see `plc.stop_after_rejects`.
        counts: `rejects_in_row`, `missed` and `escaped`.
    """

    blind: bool = False
    busy: bool = False
    faulty: bool = False
    stop_line: bool = False
    counts: Mapping[str, int] = field(default_factory=dict)


class Output(Protocol):
    """An arm. Actions name their part and job, because the same action may come twice after a fault."""

    def act(self, action: ActionRecord) -> None:
        """Have the arm act. Return when it has acknowledged.

        Raises:
            OutputError: it has not.
        """
        ...

    def tell(self, state: OutputState) -> None:
        """Give a sign of life. Called in every step of the gate that may act, 20 times a second or more.

        Raises:
            OutputError: the arm has not taken it.
        """
        ...

    def check(self) -> None:
        """Raise OutputError if the arm is known to be out of order. Called while there is nothing to do."""
        ...

    def close(self) -> None:
        """Release the arm."""
        ...


class MemoryOutput:
    """An arm in memory, for tests. It keeps the contract of `Output`."""

    def __init__(self) -> None:
        self.actions: list[ActionRecord] = []
        self.state: OutputState | None = None
        self.fault: str | None = None
        self.silence: str | None = None
        self.faulty_jobs: set[str] = set()

    def act(self, action: ActionRecord) -> None:
        """See `Output`."""
        self.check()
        if action.job_id in self.faulty_jobs:
            raise OutputError("no such part")
        self.actions.append(action)

    def tell(self, state: OutputState) -> None:
        """See `Output`."""
        if self.silence is not None:
            raise OutputError(self.silence)
        self.state = state

    def check(self) -> None:
        """See `Output`."""
        if self.fault is not None:
            raise OutputError(self.fault)

    def close(self) -> None:
        """See `Output`."""


class ExecOutput:
    """The program of an arm. It reads one action a line, and answers each with a line that names the job.

    The answer is a JSON object with the `job_id`, for example the action itself, or the bare job id. An object that
    also has an `error` reports a fault. Other lines are ignored. After a fault the program is ended; the next call
    starts it again.

    Args:
        command: the program and its arguments.
        timeout_s: time for an answer.
        clock: a monotonic clock in seconds.

    Raises:
        SetupError: the program cannot be started.
    """

    def __init__(self, command: Sequence[str], timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._command = list(command)
        self._timeout_s = timeout_s
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._unkillable = UnkillableProcesses()  # their arm may still move
        self._received = b""
        try:
            self._start()
        except OutputError as error:
            raise SetupError(f"--exec: {error}") from error

    def act(self, action: ActionRecord) -> None:
        """See `Output`."""
        self.check()
        try:
            self._send(action.to_json() + b"\n")
            self._await_answer(action.job_id)
        except OutputError:
            self._end(0.0)
            raise

    def tell(self, state: OutputState) -> None:
        """See `Output`. The program sees the end of its input when the gate ends, and nothing before."""

    def check(self) -> None:
        """See `Output`. Starts the program if it is not running because of an earlier fault."""
        if self._process is None:
            self._start()
        elif self._process.poll() is not None:
            exit_code = self._process.returncode
            self._end(0.0)
            raise OutputError(f"the arm's program has ended with exit code {exit_code}")

    def close(self) -> None:
        """See `Output`. The end of its input asks the program to end."""
        self._end(_END_TIMEOUT_S)

    def _start(self) -> None:
        for pid in self._unkillable.pids():
            raise OutputError(f"the arm's program (process {pid}) was killed and does not end; look at its device")
        try:  # a session of its own: Ctrl-C in a terminal must not end the arm before the gate
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
            )
        except OSError as error:
            raise OutputError(f"{self._command[0]}: cannot be started ({error.strerror})") from error
        self._received = b""

    def _send(self, line: bytes) -> None:
        try:
            _pipe(self._process, "stdin").write(line)
        except OSError as error:
            raise OutputError(f"the arm's program does not read ({error.strerror})") from error

    def _await_answer(self, job_id: str) -> None:
        deadline = self._clock() + self._timeout_s
        output = _pipe(self._process, "stdout").fileno()
        while True:
            while b"\n" in self._received:
                line, _, self._received = self._received.partition(b"\n")
                if acknowledges(line, job_id):
                    return
            remaining_s = deadline - self._clock()
            if remaining_s <= 0 or not select.select([output], [], [], remaining_s)[0]:
                raise OutputError(f"the arm's program has not answered within {self._timeout_s:g} s")
            received = os.read(output, 65_536)
            if not received:
                raise OutputError("the arm's program has ended, or closed its output")
            self._received += received

    def _end(self, timeout_s: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        _pipe(process, "stdin").close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout_s)
        with contextlib.suppress(ProcessLookupError):  # also what the program has started
            os.killpg(process.pid, signal.SIGKILL)
        self._unkillable.kill(process)
        _pipe(process, "stdout").close()


def _pipe(process: subprocess.Popen[bytes] | None, name: str) -> IO[bytes]:
    pipe: IO[bytes] | None = getattr(process, name)
    assert pipe is not None
    return pipe


def acknowledges(line: bytes, job_id: str) -> bool:
    """Return True if the line acknowledges the job. Raise OutputError if it reports a fault."""
    text = line.decode(errors="replace").strip()
    if text == job_id:
        return True
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if not isinstance(answer, dict) or answer.get("job_id") != job_id:
        return False
    if answer.get("error"):
        raise OutputError(f"the arm reports: {answer['error']}")
    return True
