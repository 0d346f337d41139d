"""What a gate hears of a job: its announcement and its verdict, made up without a publisher and without a worker."""

from patchline.broker.base import Message
from patchline.protocol import messages
from patchline.protocol.messages import Announcement, Decision, Verdict


def announcement(job_id, captured_at, patience_ms=1000, **fields):
    """Return an announcement. The verdict is due `patience_ms` after `captured_at`; None: nobody says when."""
    deadline = None if patience_ms is None else captured_at + patience_ms
    defaults = {"line": "l", "category": "c", "part_id": "p", "captured_at": captured_at, "deadline": deadline}
    return Announcement(job_id=job_id, **defaults | fields)


def verdict(job_id, at, decision=Decision.PASS, **fields):
    """Return a verdict that was decided `at`."""
    defaults = {"line": "l", "category": "c", "part_id": "p", "decision": decision, "received_at": at, "decided_at": at}
    defaults |= {"worker": "host-7:cpu:0:99", "device": "cpu:0", "attempt": 1}
    return Verdict(job_id=job_id, **defaults | fields)


def message_of(content):
    """Return an announcement or a verdict as the message that carries it."""
    if isinstance(content, Announcement):
        return Message(b"", content.job_id, messages.PART_TYPE, None, content.headers())
    return Message(content.to_json(), content.job_id, messages.VERDICT_TYPE)
