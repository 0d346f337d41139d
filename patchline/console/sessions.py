"""Log-ins. The browser has a random token, and the file its digest: who reads the file cannot use it."""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from patchline.console import audit
from patchline.console.database import ConsoleDatabase
from patchline.console.roles import Role
from patchline.protocol.errors import DiskFull, SetupError
from patchline.runtime import uptime

_log = structlog.get_logger(__name__)
SESSION_COOKIE = "patchline_session"
_TOKEN_BYTES = 32
_SEEN_EVERY_S = 60.0  # one write a minute, not one a page
_SESSION = "SELECT name, csrf, started_at, seen_at FROM sessions WHERE digest = ?"
_ACCOUNT = "SELECT role, must_change, changed_at FROM accounts WHERE name = ? AND NOT disabled"


@dataclass(frozen=True, slots=True)
class Session:
    """A log-in.

    Attributes:
        name: of the account.
        role: as it is now.
        csrf: what each form must send back.
        token: of the browser.
        must_change: the person may only choose a password.
    """

    name: str
    role: Role
    csrf: str = field(repr=False)
    token: str = field(repr=False)
    must_change: bool = False


@dataclass(slots=True)
class _Known:
    """A log-in that was used since the start of the console. Times are seconds since the start of the machine.

    Attributes:
        began_at: the time of the wall clock, in epoch milliseconds, for the file.
        stored: when its last use was written to the file; None: the file does not have it yet.
    """

    name: str
    csrf: str
    began_at: int
    started: float
    seen: float
    stored: float | None


class Sessions:
    """Begins, finds and ends log-ins. Thread-safe. All methods raise SetupError.

    While the disk is full, log-ins begin and end in memory, and are written once there is room. Ages are those of the
    machine's own time: a clock that is set back or forward ends no log-in, and prolongs none.

    Args:
        database: the file of the console.
        idle_minutes: a log-in ends this long after its last use.
        hours: and this long after its beginning.
        clock: seconds that never go back, also those for which the machine slept.
    """

    def __init__(
        self, database: ConsoleDatabase, idle_minutes: int, hours: int, clock: Callable[[], float] = uptime.boot_s
    ) -> None:
        self._database, self._clock = database, clock
        self._idle_ms, self._most_ms = idle_minutes * 60_000, hours * 3_600_000
        self._known: dict[str, _Known] = {}
        self._ended: set[str] = set()  # that the file still has
        self._lock = threading.RLock()
        with suppress(DiskFull), database.transaction() as connection:
            now = self._now()  # a clock that was ahead must not keep them until it is so late again
            changes = "seen_at = min(seen_at, ?), started_at = min(started_at, ?) WHERE seen_at > ? OR started_at > ?"
            connection.execute(f"UPDATE sessions SET {changes}", (now, now, now, now))

    def begin(self, name: str) -> Session:
        """Begin a log-in of an account, whose password was right."""
        token, csrf = secrets.token_urlsafe(_TOKEN_BYTES), secrets.token_urlsafe(_TOKEN_BYTES)
        account = self._database.read(_ACCOUNT, name)
        if not account:
            raise SetupError(f"there is no account {name!r} any more")
        at, digest = self._clock(), _digest(token)
        known = _Known(name, csrf, self._now(), at, at, None)
        with self._lock:
            try:
                with self._database.transaction() as connection:
                    self._sweep(connection)
                    self._insert(connection, digest, known)
                    audit.write(connection, self._now(), name, "logged in", "")
                known.stored = at
            except DiskFull as error:
                _log.error("a log-in is in memory only", who=name, reason=str(error))
            self._known[digest] = known
        return Session(name, Role(account[0][0]), csrf, token, bool(account[0][1]))

    def find(self, token: str, used: bool = True) -> Session | None:
        """Return the log-in of a token, or None if there is none, it has ended, or its account is gone.

        Args:
            token: as the browser sent it.
            used: a person has asked for something; False only looks.
        """
        digest = _digest(token)
        with self._lock:
            known = self._find(digest)
            account = [] if known is None else self._database.read(_ACCOUNT, known.name)
            is_changed = known is not None and known.stored is None and account and account[0][2] > known.began_at
            if known is None or not account or is_changed or self._is_over(known):
                self._known.pop(digest, None)
                return None
            if used:
                self._use(digest, known)
            return Session(known.name, Role(account[0][0]), known.csrf, token, bool(account[0][1]))

    def end(self, session: Session) -> None:
        """End a log-in."""
        digest = _digest(session.token)
        with self._lock:
            self._known.pop(digest, None)
            try:
                with self._database.transaction() as connection:
                    connection.execute("DELETE FROM sessions WHERE digest = ?", (digest,))
                    audit.write(connection, self._now(), session.name, "logged out", "")
            except DiskFull as error:
                self._ended.add(digest)
                _log.error("a log-out is in memory only", who=session.name, reason=str(error))

    def _find(self, digest: str) -> _Known | None:
        """Return a log-in. The file decides, unless it has no room: others may have ended it there."""
        known, rows = self._known.get(digest), self._database.read(_SESSION, digest)
        if digest in self._ended or (known is not None and known.stored is None):
            return None if digest in self._ended else known
        if not rows:
            return None
        if known is None:  # of an earlier start of the console
            name, csrf, started_at, seen_at = rows[0]
            at, now = self._clock(), self._now()
            known = _Known(name, csrf, started_at, at - max(0, now - started_at) / 1000, at, at)
            known.seen = known.stored = at - max(0, now - seen_at) / 1000
            self._known[digest] = known
        return known

    def _is_over(self, known: _Known) -> bool:
        at = self._clock()
        return at >= known.seen + self._idle_ms / 1000 or at >= known.started + self._most_ms / 1000

    def _use(self, digest: str, known: _Known) -> None:
        known.seen = self._clock()
        if known.stored is not None and known.seen < known.stored + _SEEN_EVERY_S:
            return
        with suppress(DiskFull):
            with self._database.transaction() as connection:
                if known.stored is None:
                    self._insert(connection, digest, known)
                connection.execute("UPDATE sessions SET seen_at = ? WHERE digest = ?", (self._now(), digest))
            known.stored = known.seen

    def _insert(self, connection: sqlite3.Connection, digest: str, known: _Known) -> None:
        row = (digest, known.name, known.csrf, known.began_at, known.began_at)
        connection.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", row)

    def _sweep(self, connection: sqlite3.Connection) -> None:
        """Delete what has ended, by the machine's time if it was used since the start, and else by the clock."""
        self._known = {digest: one for digest, one in self._known.items() if not self._is_over(one)}
        now = self._now()
        query = "SELECT digest FROM sessions WHERE seen_at <= ? OR started_at <= ?"
        old = {digest for (digest,) in connection.execute(query, (now - self._idle_ms, now - self._most_ms))}
        gone = (old - self._known.keys()) | self._ended
        connection.executemany("DELETE FROM sessions WHERE digest = ?", [(digest,) for digest in gone])

    def _now(self) -> int:
        return self._database.now_ms()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
