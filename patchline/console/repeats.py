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

    def answered(self, visit: Visit) -> Reply | None:
        """Return the answer to a form that came before, once there is one; None: it did not come, or failed.

        The log-in may have ended since: a new password ends it, and who holds its token has sent this form.
        """
        if not visit.one(FIELD) or not visit.token:
            return None
        with self._lock:
            sent = self._sent.get(_key(visit))
        if sent is None or self._clock() - sent.at >= _KEPT_S:
            return None
        with sent.lock:
            return sent.reply

    def _of(self, visit: Visit) -> _Sent:
        with self._lock:
            now = self._clock()
            while self._sent and (len(self._sent) >= _MOST or now - next(iter(self._sent.values())).at >= _KEPT_S):
                self._sent.popitem(last=False)
            return self._sent.setdefault(_key(visit), _Sent(now))


def _key(visit: Visit) -> str:
    """Return what two forms have in common that are the same: the log-in, the page and all that was sent.

    Tablets give each photo the same name, so the name of a file does not tell which it is.
    """
    files = [(one.name, one.digest) for one in visit.files]
    sent = (visit.token, visit.path, visit.language, visit.partial, sorted(visit.form.items()), files)
    return hashlib.sha256(repr(sent).encode(errors="replace")).hexdigest()
