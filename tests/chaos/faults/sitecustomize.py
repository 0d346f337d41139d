"""Failpoints and deliberate faults of a worker or publisher: on its PYTHONPATH, Python imports this file at its start.

A file in the folder PATCHLINE_FAILPOINTS, named after a stage, ends by SIGKILL whichever process reaches that stage
first; the file is gone then. A part whose name begins with `poison` ends every worker in the first stage of its
inspection, as an image would that a decoder trips over. PATCHLINE_BROKEN names one way to break the promise, for the
tests that prove that the chaos would show it.
"""

import os
import signal
import threading
from contextlib import contextmanager
from pathlib import Path

from patchline.broker.base import Delivery
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
    _die()


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner, name, action):
    """Have `action` called with the arguments of `owner.name`, each time before it."""
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
            _die()
        yield


def _check_attempts(self, delivery, original=Lane._check_attempts):
    original(self, delivery)
    _poison.taken = str(delivery.message.headers.get("part_id")).startswith("poison")


Stopwatch.stage = _stage
Lane._check_attempts = _check_attempts
before(Lane, "_inspect", lambda *_: reach("receive"))
before(Delivery, "ack", lambda *_: reach("ack"))
before(RedisVerdictCache, "save_verdict", lambda *_: reach("cache"))
match os.environ.get("PATCHLINE_BROKEN"):
    case "ack_first":
        before(Lane, "_publish_and_ack", lambda _, delivery, *__: delivery.ack())
        Delivery._settle_once = lambda self, settlement: self._settle(settlement)
    case "no_spool":
        Spool.put = lambda *_: None
before(Lane, "_publish", lambda *_: reach("publish"))
