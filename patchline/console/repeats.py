"""Forms that are sent twice, by a double click or a browser that loads a page again: they act once."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from patchline.console.visit import Answer, Reply, Visit

_KEPT_S = 600.0
_MOST = 500  # answers, of some 10 kB each; the oldest are forgotten
FIELD = "once"  # of a form: another value each time that it is shown


class _Sent:
    """A form that was sent, and its answer once there is one."""

    def __init__(self, at: float) -> None:
        self.at = at
        self.lock = threading.Lock()
        self.reply: Reply | None = None


class Repeats:
    """Answers a form that comes again as at the first time. Thread-safe.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sent: OrderedDict[str, _Sent] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, visit: Visit, make: Callable[[], Reply]) -> Reply:
        """Return the answer to a form. One that is being answered is waited for; one that failed is tried again."""
        if not visit.one(FIELD):
            return make()
        sent = self._of(visit)
        with sent.lock:
            if sent.reply is not None:
                return sent.reply
            reply = make()
            if not isinstance(reply, Answer) or reply.status < 400:
                sent.reply = reply
            return reply

    def _of(self, visit: Visit) -> _Sent:
        with self._lock:
            now = self._clock()
            while self._sent and (len(self._sent) >= _MOST or now - next(iter(self._sent.values())).at >= _KEPT_S):
                self._sent.popitem(last=False)
            return self._sent.setdefault(_key(visit), _Sent(now))


def _key(visit: Visit) -> str:
    """Return what two forms have in common that are the same: the log-in, the page and all that was sent."""
    files = [one.name for one in visit.files]
    sent = (visit.person.token, visit.path, visit.language, visit.partial, sorted(visit.form.items()), files)
    return hashlib.sha256(repr(sent).encode(errors="replace")).hexdigest()
