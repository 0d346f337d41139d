"""A process of a trial: it is started once others are ready, watched, and started again after it has ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from patchline.protocol.errors import MismatchError
from patchline.runtime import disk

_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_HEALTHY_S = 60.0  # one that ran this long is started again after the first pause
_MOST_DOUBLINGS = 10
_LOWEST_OF_SIGNALS = 192  # 256 - 64, the highest signal


class Running(Protocol):
    """A process that was started."""

    def poll(self) -> int | None:
        """Return its exit code, or None while it runs."""
        ...


@dataclass
class Child:
    """A process and its history. `step` is called again and again.

    Attributes:
        name: for people.
        launch: starts the process.
        is_ready: asks whether this process does its work.
        may_start: whether it may be started for the first time; afterwards it runs until the end of the trial.
        request_stop: asks the process to end, without waiting.
        last_words: the end of its log, for people.
        say: takes what people should know: the name, and a text.
    """

    name: str
    launch: Callable[[], Running]
    is_ready: Callable[[Running], bool]
    request_stop: Callable[[Running], None]
    say: Callable[[str, str], None]
    may_start: Callable[[], bool] = lambda: True
    last_words: Callable[[], str] = lambda: ""
    process: Running | None = field(default=None, init=False)
    ready: bool = field(default=False, init=False)
    was_ready: bool = field(default=False, init=False)
    given_up: bool = field(default=False, init=False)
    failures: int = field(default=0, init=False)
    _started_at: float = field(default=0.0, init=False)
    _restart_at: float = field(default=0.0, init=False)
    _renewed: bool = field(default=False, init=False)  # it was asked to end, so that it starts anew

    def step(self, now: float) -> None:
        """Start the process when it is due, see whether it is ready, and plan its next start if it has ended.

        Args:
            now: seconds that never go back.
        """
        if self.given_up:
            return
        if self.process is None:
            if now >= self._restart_at and (self._started_at or self.may_start()):
                self._started_at = now
                self._start(now)
            return
        code = self.process.poll()
        if code is not None:
            self._ended(now, code)
        elif not self.ready and self.is_ready(self.process):
            self.ready = self.was_ready = True
            self.say(self.name, "ready")

    def renew(self, why: str) -> None:
        """End the process in its ordinary way, and start it anew. One that was given up is started, too."""
        if self.given_up:
            self.given_up, self.failures, self._restart_at = False, 0, 0.0
            self.say(self.name, f"is started again: {why}")
        elif self.process is not None and not self._renewed:
            self._renewed = True
            self.say(self.name, f"starts anew: {why}")
            self.request_stop(self.process)

    def stop(self) -> None:
        """Ask the process to end, without waiting."""
        if self.process is not None:
            self.request_stop(self.process)

    def _start(self, now: float) -> None:
        try:
            self.process = self.launch()
        except OSError as error:
            advice = "the disk is full, make room on it" if disk.is_full(error) else str(error)
            self.say(self.name, f"cannot be started: {advice}; next try in {self._plan(now):g} s")

    def _ended(self, now: float, code: int) -> None:
        self.process, self.ready = None, False
        if self._renewed:
            self._renewed, self.failures, self._restart_at = False, 0, now
            return
        if code == MismatchError.exit_code:
            self.given_up = True
            advice = "it starts once bank or configuration are others; else start patchline up again"
            self.say(self.name, f"cannot run, and is not started again: {self.last_words()}; {advice}")
            return
        pause_s = self._plan(now)
        # Its guard passes on -9 of a process that SIGKILL has ended, and the kernel keeps the lowest byte.
        how = f"was ended by signal {256 - code}" if code >= _LOWEST_OF_SIGNALS else f"ended with code {code}"
        self.say(self.name, f"{how}, starts again in {pause_s:g} s: {self.last_words()}")

    def _plan(self, now: float) -> float:
        """Plan the next start. Return the pause before it, in seconds."""
        self.failures = 1 if now - self._started_at > _HEALTHY_S else self.failures + 1
        pause_s: float = min(_LONGEST_PAUSE_S, _PAUSE_S * 2 ** min(self.failures - 1, _MOST_DOUBLINGS))
        self._restart_at = now + pause_s
        return pause_s
