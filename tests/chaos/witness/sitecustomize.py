"""Records what a gate hears, and when it may act. Python imports this file at startup if its folder is in PYTHONPATH.

PATCHLINE_WITNESS names the log of all gates. PATCHLINE_BROKEN names a bug, for the tests that prove that it would be
detected.
"""

import json
import os
import time

from patchline.gate.decide import NO_VERDICT, Gate
from patchline.gate.in_hand import InHand
from patchline.gate.journal import Journal
from patchline.gate.lease import Lease
from patchline.gate.memory import Memory
from patchline.protocol.gate_messages import Action

_BEAT_S = 0.05
_log = os.open(os.environ["PATCHLINE_WITNESS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
_last_beat = 0.0
_role, _may_reject = None, False
_acting = False  # on one part after another, as after a freeze


def _write(**fields):
    os.write(_log, json.dumps({"pid": os.getpid(), "at": time.monotonic(), **fields}).encode() + b"\n")


def _on_part(self, part, *arguments, original=Gate.on_part):
    _write(heard=part.part_id, patience_s=self.patience.seconds(part))
    return original(self, part, *arguments)


def _permit(self, now, original=Lease.permit):
    global _role, _may_reject
    permit = original(self, now)
    _role, _may_reject = self.role(now), permit.reject
    if time.monotonic() > _last_beat + _BEAT_S:
        _beat()
    return permit


def _next_action(self, *arguments, original=Gate.next_action):
    record = original(self, *arguments)
    _set_acting(record is not None)
    return record


def _postpone(self, *arguments, original=InHand.postpone):
    _set_acting(False)  # the arm has failed
    return original(self, *arguments)


def _set_acting(acting):
    global _acting
    if acting != _acting:
        _acting = acting
        _beat()


def _beat():
    global _last_beat
    _last_beat = time.monotonic()
    _write(role=_role, able=_may_reject and not _acting)


def _accept_overdue(self, *arguments, original=Gate._record):
    record = original(self, *arguments)
    return record.model_copy(update={"action": Action.ACCEPT}) if record.because == NO_VERDICT else record


Gate.on_part = _on_part
Gate.next_action = _next_action
InHand.postpone = _postpone
Lease.permit = _permit
match os.environ.get("PATCHLINE_BROKEN"):
    case "forgets":
        Memory._enqueue_write = lambda *_: None
        Journal._write = lambda *_: None
    case "accepts_overdue":
        Gate._record = _accept_overdue
        Gate.stands = lambda *_: True  # it would keep such an act from the arm
    case "ignores_acts":
        Gate.on_act = lambda *_: None
