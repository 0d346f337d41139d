"""Fits the memory banks of lessons, one at a time, each in a process of its own that ends with the console."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from patchline import config
from patchline.console.lesson_files import Run
from patchline.console.lessons import Lesson, Lessons
from patchline.protocol.errors import DiskFull, SetupError
from patchline.runtime import disk

_log = structlog.get_logger(__name__)
COMMAND = (sys.executable, "-m", "patchline.console.fitting")
_SERVERS = ("PATCHLINE_AMQP_URL", "PATCHLINE_REDIS_URL", "PATCHLINE_ARCHIVE_URL")  # which a fit does not ask
_END_S = 5.0
_CONSOLE_ENDED = "the console ended meanwhile; no version was made, so fit again"
_SHOWN = 500  # characters of what the process has said last


class Busy(SetupError):
    """Another lesson is being fitted."""


class Teacher:
    """Starts, watches and ends the process that fits. Thread-safe. Methods raise SetupError if a file cannot be used.

    Args:
        lessons: their folders tell how a fit goes, so any page can show it.
        settings: of the fit.
        now_ms: the wall clock.
        command: of the process; the folder of the lesson is added.
    """

    def __init__(
        self, lessons: Lessons, settings: config.Config, now_ms: Callable[[], int], command: Sequence[str] = COMMAND
    ) -> None:
        self._lessons, self._settings, self._now_ms, self._command = lessons, settings, now_ms, command
        self._lock = threading.RLock()
        self._fitted: tuple[Lesson, subprocess.Popen[bytes]] | None = None
        self._unwritten: dict[str, Run] = {}
        for lesson in lessons.all():  # a fit ends with its console
            self._end(lesson, _CONSOLE_ENDED)

    @property
    def busy_with(self) -> Lesson | None:
        """The lesson that is being fitted."""
        with self._lock:
            self._settle()
            return None if self._fitted is None else self._fitted[0]

    def run_of(self, lesson: Lesson) -> Run | None:
        """Return how the latest fit of a lesson goes or ended."""
        with self._lock:
            self._settle()
            return self._unwritten.get(lesson.id) or lesson.run

    def start(self, lesson: Lesson, by: str) -> None:
        """Fit a lesson. Raises Busy."""
        with self._lock:
            if (other := self.busy_with) is not None:
                raise Busy(f"{other.note.category} is being fitted; one fit runs at a time")
            self._settings_file(lesson)
            self._unwritten.pop(lesson.id, None)
            lesson.report(Run(state="running", by=by, began_at=self._now_ms()))
            log = lesson.folder / "log.txt"
            try:
                with log.open("wb") as output:
                    process = subprocess.Popen(
                        [*self._command, str(lesson.folder)],
                        stdin=subprocess.PIPE,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                        env={name: value for name, value in os.environ.items() if not name.startswith(_SERVERS)},
                    )
            except OSError as error:
                self._end(lesson, f"the process cannot be started ({error.strerror})")
                if disk.is_full(error):
                    raise disk.full(log) from error
                raise SetupError(f"the process of the fit cannot be started ({error.strerror})") from error
            self._fitted = lesson, process

    def cancel(self, lesson: Lesson) -> bool:
        """End the fit of a lesson. Return False if it is not being fitted."""
        with self._lock:
            self._settle()
            if self._fitted is None or self._fitted[0] != lesson:
                return False
            self._stop(self._fitted[1])
            self._fitted = None
            run = lesson.run
            if run is not None and run.state == "running":
                self._note(lesson, run.model_copy(update={"state": "cancelled"}))
            return True

    def close(self) -> None:
        """End the process, if there is one."""
        with self._lock:
            if self._fitted is not None:
                self._stop(self._fitted[1])
                self._end(self._fitted[0], _CONSOLE_ENDED)
                self._fitted = None

    def _settings_file(self, lesson: Lesson) -> None:
        """Write the configuration for the process. It is that of the console, without the urls."""
        path = lesson.folder / "settings.yaml"
        try:
            config.save(self._settings, path)
        except OSError as error:
            raise disk.unwritable(path, error) from error

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()  # nothing of it counts before the version is recorded in the store
        _close(process)
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            _log.error("the process of a fit sleeps in the kernel, and cannot be ended", pid=process.pid)

    def _settle(self) -> None:
        """See whether the process has ended, and say why if it has not said so itself."""
        if self._fitted is None:
            return
        lesson, process = self._fitted
        code, run = process.poll(), lesson.run
        if code is None and run is not None and run.state == "running":
            return
        self._fitted = None
        if code is None:  # it has said how it ended, and only tidies up
            self._stop(process)
            return
        _close(process)
        self._end(lesson, _why(code, lesson.folder / "log.txt"))

    def _end(self, lesson: Lesson, problem: str) -> None:
        """Note that a fit has ended without a result."""
        run = lesson.run
        if run is not None and run.state == "running":
            _log.error("a fit ended without a result", lesson=lesson.id, reason=problem)
            self._note(lesson, run.model_copy(update={"state": "failed", "problem": problem}))

    def _note(self, lesson: Lesson, run: Run) -> None:
        """Write how a fit has ended. A full disk takes that later, or never: the next console finds that it ended."""
        try:
            lesson.report(run)
        except DiskFull:
            self._unwritten[lesson.id] = run


def _close(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()


def _why(code: int, log: Path) -> str:
    if code < 0:
        memory = (
            " The memory may not suffice: use fewer pictures, or lower max_patches." if -code == signal.SIGKILL else ""
        )
        return f"its process was ended by {signal.Signals(-code).name}.{memory} No version was made"
    if code == disk.EXIT_CODE:
        return "the disk is full, so no version was made; make room, and fit again"
    try:
        said = log.read_text(encoding="utf-8", errors="replace").strip()[-_SHOWN:].splitlines()[-1:]
    except OSError:
        said = []
    return f"its process ended with code {code}; {' '.join(said) or 'it said nothing'}"
