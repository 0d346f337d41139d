"""A closer look by a process of its own, which gives way to the line, and ends after its answer.

The child is `python -m patchline.operations.look_child`. It reads a `_Task` as JSON, and writes a `CloserLook`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import closing

import pydantic

from patchline import config
from patchline.operations.look_result import CloserLook
from patchline.protocol import server_url
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Frozen
from patchline.runtime import background, parent

_POLL_S = 0.5
_REFUSED = 2  # exit code, with the reason as the last line of the errors
_WITHOUT_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class _Task(Frozen):
    job_id: str
    settings: config.Config


def look(settings: config.Config, job_id: str, limit_s: float, stop: threading.Event) -> CloserLook:
    """Take a closer look at a job in a child process. The thread that calls it must outlive the child.

    Args:
        settings: the configuration.
        job_id: of a job in the archive.
        limit_s: the child is killed after this time.
        stop: when it is set, the child is killed.

    Raises:
        SetupError: the archive cannot be used, or the child has not answered in time, or has crashed.
    """
    try:
        return _look(task(settings, job_id), limit_s, stop)
    except (OSError, pydantic.ValidationError) as error:
        raise SetupError(f"the process that judges cannot be used: {error}") from error


def task(settings: config.Config, job_id: str) -> bytes:
    """Return what a child is told: no password."""
    return _Task(job_id=job_id, settings=_without_secrets(settings)).model_dump_json().encode()


def _look(given: bytes, limit_s: float, stop: threading.Event) -> CloserLook:
    with subprocess.Popen(
        [sys.executable, "-m", "patchline.operations.look_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | _WITHOUT_THREADS,
        start_new_session=True,
        preexec_fn=parent.end_with_parent(),
    ) as child:
        try:
            answer, errors = _communicate(child, given, time.monotonic() + limit_s, stop)
        finally:
            child.kill()
    if child.returncode == 0:
        return CloserLook.model_validate_json(answer)
    said = errors.decode(errors="replace").strip().splitlines()[-1:]
    if child.returncode == _REFUSED:
        raise SetupError("".join(said))
    raise SetupError(f"the process that judges has ended with {child.returncode}: {''.join(said) or 'it said nothing'}")


def _without_secrets(settings: config.Config) -> config.Config:
    """Return the configuration without the servers that a child does not ask, and without a password.

    The child reads the url of the archive from the same environment.
    """
    url = settings.archive.url
    archive = settings.archive.model_copy(update={"url": "" if server_url.has_password(url) else url})
    return settings.model_copy(update={"broker": config.Broker(), "redis": config.Redis(), "archive": archive})


def _communicate(
    child: subprocess.Popen[bytes], given: bytes | None, until: float, stop: threading.Event
) -> tuple[bytes, bytes]:
    while time.monotonic() < until and not stop.is_set():
        try:
            return child.communicate(given, timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            given = None  # it goes on with what it has got
    if stop.is_set():
        raise SetupError("the console ends")
    raise SetupError("this host had too little time for it; try again when the line is quieter")


def main() -> int:
    """Answer the task on the standard input. Return the exit code."""
    background.stand_back()
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    told = _Task.model_validate_json(sys.stdin.buffer.read())
    try:
        archive = told.settings.archive
        archive = archive.model_copy(update={"url": config.archive_url(archive)})
        answer = _answer(told.settings.model_copy(update={"archive": archive}), told.job_id)
    except SetupError as error:
        sys.stderr.write(f"{error}\n")
        return _REFUSED
    with output:
        output.write(answer.model_dump_json().encode())
    return 0


def _answer(settings: config.Config, job_id: str) -> CloserLook:
    from patchline.archive import opening
    from patchline.archive.base import Unavailable
    from patchline.archive.database import Access
    from patchline.archive.picture_table import PictureTable
    from patchline.banks.past_versions import PastVersions
    from patchline.devices.backbone import CPU
    from patchline.inspection.search import exact_search
    from patchline.operations import closer_look
    from patchline.operations.replay import Replayer

    exact_search.set_threads(1)
    try:
        with closing(opening.open_archive(settings, Access.READ)) as archive, PastVersions(settings) as banks:
            pictures, store = PictureTable(archive), opening.open_store(settings)
            with closing(Replayer(settings, CPU, archive, pictures, store, banks, cpus=1)) as replayer:
                return closer_look.look(replayer, job_id)
    except Unavailable as error:
        raise SetupError(f"the archive does not answer: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
