"""The accounts of people. Each change ends the log-ins of the account, and is in the audit log."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass

from patchline.console import audit
from patchline.console.database import ConsoleDatabase
from patchline.console.passwords import Passwords
from patchline.console.roles import Role
from patchline.protocol.errors import SetupError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")


@dataclass(frozen=True, slots=True)
class Account:
    """A person. `changed_at` is the time of the last change, in epoch milliseconds."""

    name: str
    role: Role
    changed_at: int


class Accounts:
    """Adds, changes and finds accounts. `by` says who does it, for the audit log. All methods raise SetupError.

    Args:
        database: the file of the console.
        passwords: hashes and compares.
    """

    def __init__(self, database: ConsoleDatabase, passwords: Passwords) -> None:
        self._database, self._passwords = database, passwords

    def add(self, name: str, role: Role, password: str, by: str) -> None:
        """Add an account."""
        if _NAME.fullmatch(name) is None:
            raise SetupError(f"{name!r} is no name of an account: letters, digits and . _ @ -, 63 at most")
        hashed = self._passwords.hash(password)
        with self._database.transaction() as connection:
            if connection.execute("SELECT 1 FROM accounts WHERE name = ?", (name,)).fetchone():
                raise SetupError(f"there is an account {name!r} already")
            row = (name, role, hashed, self._database.now_ms())
            connection.execute("INSERT INTO accounts VALUES (?, ?, ?, ?)", row)
            audit.write(connection, self._database.now_ms(), by, "account added", f"{name}, role {role}")

    def set_role(self, name: str, role: Role, by: str) -> None:
        """Give an account another role."""
        with self._database.transaction() as connection:
            self._change(connection, name, "role", role)
            audit.write(connection, self._database.now_ms(), by, "role changed", f"{name}, role {role}")

    def set_password(self, name: str, password: str, by: str) -> None:
        """Give an account another password."""
        hashed = self._passwords.hash(password)
        with self._database.transaction() as connection:
            self._change(connection, name, "password", hashed)
            audit.write(connection, self._database.now_ms(), by, "password changed", name)

    def remove(self, name: str, by: str) -> None:
        """Remove an account. What the person has judged stays."""
        with self._database.transaction() as connection:
            self._require(connection.execute("DELETE FROM accounts WHERE name = ?", (name,)).rowcount, name)
            connection.execute("DELETE FROM sessions WHERE name = ?", (name,))
            audit.write(connection, self._database.now_ms(), by, "account removed", name)

    def all(self) -> list[Account]:
        """Return all accounts, by name."""
        rows = self._database.read("SELECT name, role, changed_at FROM accounts ORDER BY name")
        return [Account(name, Role(role), changed_at) for name, role, changed_at in rows]

    def check(self, name: str, password: str) -> bool:
        """Return True if an account has this password. It takes as long if there is no such account."""
        rows = self._database.read("SELECT password FROM accounts WHERE name = ?", name)
        return self._passwords.is_right(rows[0][0] if rows else None, password)

    def _change(self, connection: sqlite3.Connection, name: str, column: str, value: str) -> None:
        update = f"UPDATE accounts SET {column} = ?, changed_at = ? WHERE name = ?"
        self._require(connection.execute(update, (value, self._database.now_ms(), name)).rowcount, name)
        connection.execute("DELETE FROM sessions WHERE name = ?", (name,))

    def _require(self, found: int, name: str) -> None:
        if not found:
            raise SetupError(f"there is no account {name!r}; see: patchline console users list")
