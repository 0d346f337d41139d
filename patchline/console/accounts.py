"""The accounts of people. Each change ends the log-ins of the account, and is in the audit log."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass

from patchline.console import audit
from patchline.console.database import ConsoleDatabase
from patchline.console.passwords import Passwords
from patchline.console.provider import Person
from patchline.console.roles import Role
from patchline.console.texts import mark
from patchline.protocol.errors import SetupError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_COLUMNS = "name, role, changed_at, disabled, must_change, subject IS NOT NULL"
_NO_PASSWORD = "!"  # no hash, so none fits
_OF_PROVIDER = "log-in service"


@dataclass(frozen=True, slots=True)
class Account:
    """A person.

    Attributes:
        changed_at: the time of the last change, in epoch milliseconds.
        disabled: nobody can log in with it.
        must_change: its password was given to it, and it may do nothing before it has one of its own.
        of_provider: the log-in service of the plant keeps its password and role.
    """

    name: str
    role: Role
    changed_at: int
    disabled: bool
    must_change: bool
    of_provider: bool


class ChangeRefused(SetupError):
    """A change of an account that cannot be.

    Args:
        text: why, as a text of the catalogues with places for values.
        values: of these places.
    """

    def __init__(self, text: str, **values: str) -> None:
        super().__init__(text % values)
        self.text, self.values = text, values


class Disabled(ChangeRefused):
    """Nobody can log in with the account."""


class Accounts:
    """Adds, changes and finds accounts. `by` says who does it, for the audit log.

    All methods raise SetupError, and those that change something ChangeRefused, which is one. One account that can
    log in stays an administrator, or nobody could make another one in the browser.

    Args:
        database: the file of the console.
        passwords: hashes and compares.
    """

    def __init__(self, database: ConsoleDatabase, passwords: Passwords) -> None:
        self._database, self._passwords = database, passwords

    def add(self, name: str, role: Role, password: str, by: str, given: bool = False) -> None:
        """Add an account. `given`: the person must choose another password at the first log-in."""
        hashed = self._passwords.hash(password)
        with self._database.transaction() as connection:
            self._insert(connection, name, role, hashed, must_change=given)
            audit.write(connection, self._database.now_ms(), by, "account added", f"{name}, role {role}")

    def set_role(self, name: str, role: Role, by: str) -> None:
        """Give an account another role."""
        with self._database.transaction() as connection:
            self._require_own(connection, name)
            self._change(connection, name, role=role)
            audit.write(connection, self._database.now_ms(), by, "role changed", f"{name}, role {role}")

    def set_password(self, name: str, password: str, by: str, given: bool = False) -> None:
        """Give an account another password. `given`: the person must choose another one at the next log-in."""
        hashed = self._passwords.hash(password)
        with self._database.transaction() as connection:
            self._require_own(connection, name)
            self._change(connection, name, password=hashed, must_change=given)
            audit.write(connection, self._database.now_ms(), by, "password changed", name)

    def arrive(self, person: Person) -> str:
        """Return the name of the account of a person whom the log-in service names. Make it, or bring it up to date.

        Raises Disabled if nobody can log in with it.
        """
        with self._database.transaction() as connection:
            query = "SELECT name, role FROM accounts WHERE subject = ?"
            known = connection.execute(query, (person.subject,)).fetchone()
            if known is None:
                self._insert(connection, person.name, person.role, _NO_PASSWORD, subject=person.subject)
                audit.write(
                    connection,
                    self._database.now_ms(),
                    _OF_PROVIDER,
                    "account added",
                    f"{person.name}, role {person.role}",
                )
                return person.name
            name: str = known[0]
            if known[1] != person.role:
                self._change(connection, name, role=person.role)
                detail = f"{name}, role {person.role}"
                audit.write(connection, self._database.now_ms(), _OF_PROVIDER, "role changed", detail)
            query = "SELECT disabled FROM accounts WHERE name = ?"
            if connection.execute(query, (name,)).fetchone()[0]:
                raise Disabled(mark("the account '%(name)s' is disabled"), name=name)
            return name

    def disable(self, name: str, by: str) -> None:
        """Let nobody log in with an account, and keep it."""
        with self._database.transaction() as connection:
            self._change(connection, name, disabled=True)
            audit.write(connection, self._database.now_ms(), by, "account disabled", name)

    def enable(self, name: str, by: str) -> None:
        """Let the person of an account log in again."""
        with self._database.transaction() as connection:
            self._change(connection, name, disabled=False)
            audit.write(connection, self._database.now_ms(), by, "account enabled", name)

    def end_log_ins(self, name: str, by: str) -> None:
        """End all log-ins of an account."""
        with self._database.transaction() as connection:
            self._require(connection.execute("SELECT count(*) FROM accounts WHERE name = ?", (name,)), name)
            connection.execute("DELETE FROM sessions WHERE name = ?", (name,))
            audit.write(connection, self._database.now_ms(), by, "log-ins ended", name)

    def remove(self, name: str, by: str) -> None:
        """Remove an account. What the person has judged stays."""
        with self._database.transaction() as connection:
            self._require(connection.execute("SELECT count(*) FROM accounts WHERE name = ?", (name,)), name)
            was_kept = self._is_kept(connection)
            connection.execute("DELETE FROM accounts WHERE name = ?", (name,))
            self._require_an_administrator(connection, was_kept, name)
            connection.execute("DELETE FROM sessions WHERE name = ?", (name,))
            audit.write(connection, self._database.now_ms(), by, "account removed", name)

    def all(self) -> list[Account]:
        """Return all accounts, by name."""
        return self._read("ORDER BY name")

    def find(self, name: str) -> Account | None:
        """Return an account; None if there is none of this name."""
        found = self._read("WHERE name = ?", name)
        return found[0] if found else None

    def log_ins(self) -> dict[str, int]:
        """Return the last page of each account that is logged in, in epoch milliseconds."""
        return dict(self._database.read("SELECT name, max(seen_at) FROM sessions GROUP BY name"))

    def check(self, name: str, password: str) -> bool:
        """Return True if an account has this password. It takes as long if there is no such account."""
        query = "SELECT password FROM accounts WHERE name = ? AND password != ?"
        rows = self._database.read(query, name, _NO_PASSWORD)
        return self._passwords.is_right(rows[0][0] if rows else None, password)

    def _read(self, which: str, *values: object) -> list[Account]:
        rows = self._database.read(f"SELECT {_COLUMNS} FROM accounts {which}", *values)
        return [Account(name, Role(role), at, *map(bool, flags)) for name, role, at, *flags in rows]

    def _insert(
        self,
        connection: sqlite3.Connection,
        name: str,
        role: Role,
        hashed: str,
        must_change: bool = False,
        subject: str | None = None,
    ) -> None:
        if _NAME.fullmatch(name) is None:
            text = mark("'%(name)s' is no name of an account: letters, digits and . _ @ -, 63 at most")
            raise ChangeRefused(text, name=name)
        if connection.execute("SELECT 1 FROM accounts WHERE name = ?", (name,)).fetchone():
            raise ChangeRefused(mark("there is an account '%(name)s' already"), name=name)
        row = (name, role, hashed, self._database.now_ms(), must_change, subject)
        columns = "name, role, password, changed_at, must_change, subject"
        connection.execute(f"INSERT INTO accounts ({columns}) VALUES (?, ?, ?, ?, ?, ?)", row)

    def _change(self, connection: sqlite3.Connection, name: str, **columns: object) -> None:
        self._require(connection.execute("SELECT count(*) FROM accounts WHERE name = ?", (name,)), name)
        was_kept = self._is_kept(connection)
        columns["changed_at"] = self._database.now_ms()
        changes = ", ".join(f"{column} = ?" for column in columns)
        connection.execute(f"UPDATE accounts SET {changes} WHERE name = ?", (*columns.values(), name))
        self._require_an_administrator(connection, was_kept, name)
        connection.execute("DELETE FROM sessions WHERE name = ?", (name,))

    def _require(self, count: sqlite3.Cursor, name: str) -> None:
        if not count.fetchone()[0]:
            raise ChangeRefused(mark("there is no account '%(name)s'"), name=name)

    def _require_own(self, connection: sqlite3.Connection, name: str) -> None:
        found = connection.execute("SELECT subject FROM accounts WHERE name = ?", (name,)).fetchone()
        if found is not None and found[0] is not None:
            raise ChangeRefused(mark("the log-in service keeps the role and password of '%(name)s'"), name=name)

    def _is_kept(self, connection: sqlite3.Connection) -> bool:
        """Return True if an administrator can log in, also while the log-in service is away.

        A plant that has none yet may have it so.
        """
        query = "SELECT count(*) FROM accounts WHERE role = ? AND NOT disabled AND subject IS NULL"
        return bool(connection.execute(query, (Role.ADMIN,)).fetchone()[0])

    def _require_an_administrator(self, connection: sqlite3.Connection, was_kept: bool, name: str) -> None:
        if was_kept and not self._is_kept(connection):
            raise ChangeRefused(mark("'%(name)s' is the last administrator; make another one first"), name=name)
