"""Log-ins. The browser has a random token, and the file its digest: who reads the file cannot use it."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field

from patchline.console import audit
from patchline.console.database import ConsoleDatabase
from patchline.console.roles import Role
from patchline.protocol.errors import SetupError

_TOKEN_BYTES = 32
_SEEN_EVERY_MS = 60_000  # one write a minute, not one a page
_COLUMNS = (
    "SELECT s.name, a.role, s.csrf, a.must_change, s.started_at, s.seen_at "
    "FROM sessions s JOIN accounts a ON a.name = s.name AND NOT a.disabled"
)


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


class Sessions:
    """Begins, finds and ends log-ins. All methods raise SetupError.

    Args:
        database: the file of the console.
        idle_minutes: a log-in ends this long after its last use.
        hours: and this long after its beginning.
    """

    def __init__(self, database: ConsoleDatabase, idle_minutes: int, hours: int) -> None:
        self._database = database
        self._idle_ms, self._most_ms = idle_minutes * 60_000, hours * 3_600_000

    def begin(self, name: str) -> Session:
        """Begin a log-in of an account, whose password was right."""
        token, csrf, now = secrets.token_urlsafe(_TOKEN_BYTES), secrets.token_urlsafe(_TOKEN_BYTES), self._now()
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM sessions WHERE seen_at <= ? OR started_at <= ?", (now - self._idle_ms, now - self._most_ms)
            )
            query = "SELECT role, must_change FROM accounts WHERE name = ? AND NOT disabled"
            account = connection.execute(query, (name,)).fetchone()
            if account is None:
                raise SetupError(f"there is no account {name!r} any more")
            row = (_digest(token), name, csrf, now, now)
            connection.execute("INSERT INTO sessions VALUES (?, ?, ?, ?, ?)", row)
            audit.write(connection, now, name, "logged in", "")
        return Session(name, Role(account[0]), csrf, token, bool(account[1]))

    def find(self, token: str, used: bool = True) -> Session | None:
        """Return the log-in of a token, or None if there is none, it has ended, or its account is gone.

        Args:
            token: as the browser sent it.
            used: a person has asked for something; False only looks.
        """
        rows = self._database.read(f"{_COLUMNS} WHERE s.digest = ?", _digest(token))
        if not rows:
            return None
        name, role, csrf, must_change, started_at, seen_at = rows[0]
        now = self._now()
        if now >= seen_at + self._idle_ms or now >= started_at + self._most_ms:
            return None
        if used and now >= seen_at + _SEEN_EVERY_MS:
            with self._database.transaction() as connection:
                connection.execute("UPDATE sessions SET seen_at = ? WHERE digest = ?", (now, _digest(token)))
        return Session(name, Role(role), csrf, token, bool(must_change))

    def end(self, session: Session) -> None:
        """End a log-in."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM sessions WHERE digest = ?", (_digest(session.token),))
            audit.write(connection, self._now(), session.name, "logged out", "")

    def _now(self) -> int:
        return self._database.now_ms()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()
