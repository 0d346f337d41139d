"""Failpoints and deliberate bugs. Python imports this file at startup if its folder is in PYTHONPATH.

A file in the folder PATCHLINE_FAILPOINTS is named after a stage. The first process that reaches the stage deletes the
file and kills itself. A part whose name begins with `poison` kills every worker in the first stage of its inspection,
like an image that crashes a decoder. PATCHLINE_BROKEN names a bug, for the tests that prove that it would be detected.
"""

import os
import signal
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from patchline.broker.base import AlreadySettled, Delivery
from patchline.publisher.spool import Spool
from patchline.runtime.stopwatch import Stopwatch
from patchline.worker.lane import Lane
from patchline.worker.verdict_cache import RedisVerdictCache

_FOLDER = Path(os.environ["PATCHLINE_FAILPOINTS"])
_poison = threading.local()


def reach(stage):
    try:
        (_FOLDER / stage).unlink()
    except FileNotFoundError:
        return
    _kill_self()


def _kill_self():
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner, name, action):
    """Patch `owner.name` to call `action` with the same arguments first."""
    original = getattr(owner, name)

    def wrapped(self, *arguments):
        action(self, *arguments)
        return original(self, *arguments)

    setattr(owner, name, wrapped)


@contextmanager
def _stage(self, name, original=Stopwatch.stage):
    with original(self, name):
        reach(name)
        if getattr(_poison, "taken", False):
            (_FOLDER / f"poisoned-{os.getpid()}").touch()
            _kill_self()
        yield


def _check_attempts(self, delivery, original=Lane._check_attempts):
    original(self, delivery)
    _poison.taken = str(delivery.message.headers.get("part_id")).startswith("poison")


def _ack_first(_, delivery, *__):
    delivery.ack()
    time.sleep(0.05)  # until the I/O thread has sent it


def _ignore_second_settlement(self, settlement, original=Delivery._settle_once):
    with suppress(AlreadySettled):
        original(self, settlement)


Stopwatch.stage = _stage
Lane._check_attempts = _check_attempts
before(Lane, "_inspect", lambda *_: reach("receive"))
before(Delivery, "ack", lambda *_: reach("ack"))
before(RedisVerdictCache, "save_verdict", lambda *_: reach("cache"))
match os.environ.get("PATCHLINE_BROKEN"):
    case "ack_first":
        before(Lane, "_publish_and_ack", _ack_first)
        Delivery._settle_once = _ignore_second_settlement
    case "no_spool":
        Spool.put = lambda *_: None
before(Lane, "_publish", lambda *_: reach("publish"))
