"""Prints the states of jobs, one JSON object a line, as long as somebody reads them."""

from __future__ import annotations

import json
import os
import sys
import time

import structlog

from patchline.protocol.messages import Job

_log = structlog.get_logger(__name__)


class JobStates:
    """Prints each state of a job. Publishing does not depend on it: parts on a line wait for no reader."""

    def __init__(self) -> None:
        self._failing = False

    def print(self, job: Job, state: str, reason: str | None) -> None:
        """Print a state. If the reader has ended, or the disk is full, log it once."""
        try:
            print(_line(job, state, reason), flush=True)
        except BrokenPipeError:
            _log.warning("the reader of the output has ended, publishing goes on without it")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            if not self._failing:
                _log.error("states cannot be printed, publishing goes on", reason=error.strerror)
            self._failing = True
        else:
            self._failing = False


def _line(job: Job, state: str, reason: str | None) -> str:
    record = job.model_dump(include={"job_id", "part_id", "category", "deadline"})
    late = {"late": True} if job.deadline is not None and job.deadline < time.time_ns() // 1_000_000 else {}
    why = {} if reason is None else {"reason": reason}
    return json.dumps(record | {"state": state} | why | late)
