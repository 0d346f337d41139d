"""Prints the states of jobs, one JSON object a line, as long as somebody reads them."""

from __future__ import annotations

import json
import os
import select
import sys
import threading
import time

import structlog

from patchline.protocol.messages import Job

_log = structlog.get_logger(__name__)
_PATIENCE_S = 1.0  # with a reader that does not read


class JobStates:
    """Prints each state of a job. Publishing does not depend on it: parts on a line wait for no reader."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failing = False
        self._unread = 0  # states that were left out

    def print(self, job: Job, state: str, reason: str | None) -> None:
        """Print a state. If the reader has ended or does not read, or the disk is full, log it once."""
        with self._lock:
            if not _has_room(0.0 if self._unread else _PATIENCE_S):
                if not self._unread:
                    _log.warning("nobody reads the output, publishing goes on and states are left out")
                self._unread += 1
                return
            if self._unread:
                _log.warning("the output is read again", left_out=self._unread)
                self._unread = 0
            self._print(_line(job, state, reason))

    def _print(self, line: str) -> None:
        try:
            print(line, flush=True)
        except BrokenPipeError:
            _log.warning("the reader of the output has ended, publishing goes on without it")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            if not self._failing:
                _log.error("states cannot be printed, publishing goes on", reason=error.strerror)
            self._failing = True
        else:
            self._failing = False


def _has_room(timeout_s: float) -> bool:
    """Return True once a line can be printed without a wait: a pipe that is writable takes 4,096 bytes (pipe(7))."""
    try:
        return bool(select.select([], [sys.stdout.fileno()], [], timeout_s)[1])
    except (OSError, ValueError):  # not a file of the system, or closed
        return True


def _line(job: Job, state: str, reason: str | None) -> str:
    record = job.model_dump(include={"job_id", "part_id", "category", "deadline"})
    late = {"late": True} if job.deadline is not None and job.deadline < time.time_ns() // 1_000_000 else {}
    why = {} if reason is None else {"reason": reason}
    return json.dumps(record | {"state": state} | why | late)
