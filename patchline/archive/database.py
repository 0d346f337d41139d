"""An archive in SQLite or PostgreSQL. A SQLAlchemy user, as are `picture_table.py` and the changes of `migrations`.

SQLite runs in write-ahead mode with `synchronous=FULL`: a transaction that has been committed survives a power failure.
So it does on PostgreSQL, whose `synchronous_commit` is switched on if a server has it off.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql, sqlite

from patchline.archive import migrations, time_limit
from patchline.archive.base import Record, Saved, Search, TookTooLong, Unavailable, Unreadable, Unstorable
from patchline.protocol.errors import DamagedError, MismatchError, SetupError
from patchline.runtime import damage

METADATA = sa.MetaData()
_OTHER_BUILD = "`patchline archive` of this build makes its tables, or changes them, when it starts"
_UNDEFINED = ("42P01", "42703")  # a table, a column (PostgreSQL, appendix A)
_NO_SUCH = re.compile(r"no such (table|column)|has no column")  # SQLite has no code of its own for these
_ASK_LESS = "choose a shorter time, or one line"
_SQLITE_TIMEOUT_S = 10.0
_MIGRATION_LOCK = 7_204_118_231  # of PostgreSQL's advisory locks: two archives must not change the tables at once
_ROWS_AT_ONCE = 1000  # while a search is read
# A server that has gone without a word is noticed within 15 s (libpq, connection parameters; times in s and ms).
_POSTGRESQL = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "application_name": "patchline archive",
    "options": f"-c statement_timeout={time_limit.LIMIT_S * 1000:.0f} -c lock_timeout=10000",
}
_DURABLE = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"


def _verdict_columns() -> list[sa.Column[Any]]:
    short, text, integer = sa.String, sa.Text, sa.BigInteger
    return [
        sa.Column("job_id", short(128), primary_key=True),
        sa.Column("line", short(63), nullable=False),
        sa.Column("category", short(63), nullable=False),
        sa.Column("part_id", short(128), nullable=False),
        sa.Column("decision", short(16), nullable=False),
        *(sa.Column(name, text) for name in ("reason", "detail")),
        *(sa.Column(name, sa.Double) for name in ("score", "review_threshold", "fail_threshold")),
        *(sa.Column(name, text) for name in ("backbone", "memory_bank")),
        sa.Column("bank_version", short(64)),
        *(sa.Column(name, text, nullable=False) for name in ("device", "worker")),
        *(sa.Column(name, integer) for name in ("number", "captured_at")),
        *(sa.Column(name, integer, nullable=False) for name in ("received_at", "decided_at", "archived_at")),
        sa.Column("replay", sa.Boolean, nullable=False),
        sa.Column("document", text, nullable=False),
    ]


VERDICTS = sa.Table(
    "verdicts",
    METADATA,
    *_verdict_columns(),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Index("verdicts_part", "part_id", "decided_at"),
    sa.Index("verdicts_time", "decided_at"),
    *(sa.Index(f"verdicts_{column}", column, "decided_at") for column in ("line", "category", "decision")),
    sa.Index("verdicts_score", "category", "score"),
    sa.Index(
        "verdicts_scores",
        *("category", "memory_bank", "decided_at", "score", "review_threshold", "decision", "replay"),
    ),
)
FURTHER = sa.Table(
    "further_verdicts", METADATA, *_verdict_columns(), sa.Column("digest", sa.String(64), primary_key=True)
)
UNREADABLE = sa.Table(
    "unreadable",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("arrived_at", sa.BigInteger, nullable=False),
    sa.Column("message_id", sa.Text),
    sa.Column("type", sa.Text),
    sa.Column("routing_key", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
)


class Access(Enum):
    """What may be done with an archive. Only the first one makes the file or the tables."""

    MAKE = "make"
    CHANGE = "change"
    READ = "read"


class _OtherTables(Unavailable):
    """A table or a column is missing."""


class Database:
    """Implements `patchline.archive.base.Archive`. It connects when it is used first.

    Args:
        target: the file of SQLite, or the url of a PostgreSQL database.
        access: what may be done with it.
        current_url: returns the url of now, whenever a connection is made: a password may have changed.
        limit_s: of a query of SQLite; None: it may take its time. Of PostgreSQL it is always `time_limit.LIMIT_S`.

    Raises:
        SetupError: the url cannot be used, the folder cannot be made, the file is missing and may not be made, or the
            driver of PostgreSQL is missing.
    """

    def __init__(
        self,
        target: Path | str,
        access: Access = Access.MAKE,
        current_url: Callable[[], str] | None = None,
        limit_s: float | None = None,
    ) -> None:
        self._is_sqlite, self._access, self._limit_s = isinstance(target, Path), access, limit_s
        self._name = str(target) if isinstance(target, Path) else "the database of the archive"
        self._engine = (
            _sqlite_engine(target, access) if isinstance(target, Path) else _postgresql_engine(target, current_url)
        )
        self._insert = sqlite.insert if self._is_sqlite else postgresql.insert

    def prepare(self) -> None:
        """Make the tables, or bring them up to date, in one transaction.

        Raises:
            MismatchError: a later build has changed the tables.
            SetupError: the user of the database may not change the tables.
            Unavailable: see `base.Archive`.
            DamagedError: the file is damaged.
        """
        with self._errors(), self._engine.begin() as connection:
            if not self._is_sqlite:
                connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
                connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
            self._require_no_later_build(connection)
            try:
                if not migrations.is_current(connection):
                    migrations.upgrade(connection)
            except exc.ProgrammingError as error:
                advice = "run `patchline archive --migrate` once with the url of the owner of the database"
                raise SetupError(f"the tables of the archive cannot be changed ({_text(error)}); {advice}") from error

    def save(self, records: list[Record], unreadable: list[Unreadable]) -> Saved:
        """See `base.Archive`."""
        with self.transaction() as connection:
            verdicts = self._add(connection, VERDICTS, records)
            digests = self._digests(connection, [record.job_id for record in records])
            others = [record for record in records if digests[record.job_id] != record.digest]
            further = self._add(connection, FURTHER, others)
            return Saved(verdicts, further, self._add(connection, UNREADABLE, unreadable))

    def check(self) -> None:
        """See `base.Archive`."""
        list(self.read(sa.select(VERDICTS.c.job_id).limit(1)))

    def get(self, job_id: str) -> Record | None:
        """See `base.Archive`."""
        rows = list(self.read(sa.select(VERDICTS).where(VERDICTS.c.job_id == job_id)))
        return Record(**rows[0]) if rows else None

    def further(self, job_id: str) -> list[Record]:
        """See `base.Archive`."""
        query = sa.select(FURTHER).where(FURTHER.c.job_id == job_id)
        return [Record(**row) for row in self.read(query.order_by(FURTHER.c.decided_at, FURTHER.c.digest))]

    def find(self, search: Search) -> Iterator[Record]:
        """See `base.Archive`."""
        for row in self.read(_latest_of_each(search) if search.most is not None else _latest(search)):
            yield Record(**row)

    def unreadable(self, most: int) -> list[Unreadable]:
        """See `base.Archive`."""
        query = sa.select(UNREADABLE).order_by(UNREADABLE.c.arrived_at.desc(), UNREADABLE.c.digest).limit(most)
        return [Unreadable(**row) for row in self.read(query)]

    def close(self) -> None:
        """See `base.Archive`."""
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Enclose statements that are committed together. Raises Unavailable and Unstorable, as `save`.

        Raises:
            MismatchError: a later build has changed the tables while this one runs, and they do not take its rows.
        """
        try:
            with self._errors(), self._engine.begin() as connection:
                yield connection
        except (Unstorable, _OtherTables):
            with self._errors(), self._engine.connect() as connection:
                self._require_no_later_build(connection)
            raise

    def _require_no_later_build(self, connection: sa.Connection) -> None:
        if migrations.is_of_a_later_build(connection):
            raise MismatchError(f"{self._name} was changed by a later build of Patchline; run that build")

    def insert(self, table: sa.Table) -> Any:
        """Return the statement that inserts rows which are not there, and counts them."""
        return self._insert(table).on_conflict_do_nothing().execution_options(preserve_rowcount=True)

    def _add(self, connection: sa.Connection, table: sa.Table, rows: list[Any]) -> int:
        """Insert rows that are not there. Return their number."""
        if not rows:
            return 0
        return connection.execute(self.insert(table), [asdict(row) for row in rows]).rowcount

    def _digests(self, connection: sa.Connection, job_ids: list[str]) -> dict[str, str]:
        query = sa.select(VERDICTS.c.job_id, VERDICTS.c.digest).where(VERDICTS.c.job_id.in_(job_ids))
        return {row.job_id: row.digest for row in connection.execute(query)} if job_ids else {}

    def read(self, query: sa.Select[Any]) -> Iterator[dict[str, Any]]:
        """Yield the rows of a query. Raises Unavailable, and TookTooLong."""
        options = {"yield_per": _ROWS_AT_ONCE}
        with (
            self._errors(),
            self._engine.connect() as connection,
            self._limited(connection),
            connection.execute(query, execution_options=options) as result,
        ):
            for row in result.mappings():
                yield dict(row)

    def _limited(self, connection: sa.Connection) -> AbstractContextManager[None]:
        raw = connection.connection.driver_connection
        if self._limit_s is None or not isinstance(raw, sqlite3.Connection):
            return nullcontext()
        return time_limit.limited(raw, self._limit_s)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise the errors of `base.Archive` for those of the database."""
        try:
            yield
        except (exc.DataError, exc.IntegrityError, OverflowError, UnicodeError) as error:
            raise Unstorable(_text(error)) from error
        except (exc.DBAPIError, exc.TimeoutError) as error:
            if damage.is_damage(_cause(error)):
                advice = "move it away with its -wal and -shm files and restore a backup; the verdicts wait in RabbitMQ"
                raise DamagedError(f"{self._name}: is damaged ({_text(error)}); {advice}") from error
            if _lacks_a_table_or_column(error):
                advice = "" if self._access is Access.MAKE else f"; {_OTHER_BUILD}"
                raise _OtherTables(_text(error) + advice) from error
            if time_limit.was_ended(_cause(error)):
                raise TookTooLong(f"{_text(error)}; {_ASK_LESS}") from error
            raise Unavailable(_text(error)) from error


def _latest(search: Search) -> sa.Select[Any]:
    query = sa.select(VERDICTS).where(*_conditions(search)).limit(search.most)
    return query.order_by(VERDICTS.c.decided_at.desc(), VERDICTS.c.job_id)


def _latest_of_each(search: Search) -> sa.Select[Any]:
    """The same. SQLite sorts all rows of several decisions, and reads the latest of one without those before."""
    decisions = tuple(dict.fromkeys(search.decisions))
    if len(decisions) < 2:
        return _latest(search)
    parts = (sa.select(_latest(replace(search, decisions=(one,))).subquery()) for one in decisions)
    found = sa.union_all(*parts).subquery()
    return sa.select(found).order_by(found.c.decided_at.desc(), found.c.job_id).limit(search.most)


def _conditions(search: Search) -> Iterator[sa.ColumnElement[bool]]:
    column = VERDICTS.c
    conditions: tuple[tuple[Any, Callable[[Any], sa.ColumnElement[bool]]], ...] = (
        (search.part, lambda part: column.part_id == part),
        (search.line, lambda line: column.line == line),
        (search.category, lambda category: column.category == category),
        (search.decisions or None, lambda decisions: column.decision.in_(decisions)),
        (search.bank, of_bank),
        (search.since, lambda since: column.decided_at >= since),
        (search.until, lambda until: column.decided_at < until),
        (search.min_score, lambda score: column.score >= score),
        (search.max_score, lambda score: column.score <= score),
        (search.before, lambda place: _follows(*place)),
    )
    return (condition(value) for value, condition in conditions if value is not None)


def _follows(decided_at: int, job_id: str) -> sa.ColumnElement[bool]:
    """What comes after a verdict in the order of `find`. The first condition is there for the index."""
    column = VERDICTS.c
    later = sa.or_(column.decided_at < decided_at, column.job_id > job_id)
    return sa.and_(column.decided_at <= decided_at, later)


def of_bank(bank: str) -> sa.ColumnElement[bool]:
    """Return the condition that a verdict is by a bank: see `base.is_of_bank`."""
    column, digits = VERDICTS.c, bank.lower()
    by_name = (
        column.memory_bank.startswith(bank, autoescape=True),
        column.memory_bank.contains(f"@{digits}", autoescape=True),
    )
    of_earlier_build = column.document.contains(f'"bank_version":"{digits}', autoescape=True)
    without_version = sa.and_(column.bank_version.is_(None), of_earlier_build)
    return sa.or_(column.bank_version.startswith(digits, autoescape=True), *by_name, without_version)


def _sqlite_engine(file: Path, access: Access) -> sa.Engine:
    read_only = access is Access.READ
    try:
        if access is Access.MAKE:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(OSError):  # it is there, or the first connection says what is wrong
                file.touch(mode=0o600, exist_ok=False)  # for its owner only, whatever the umask; its log follows it
        elif not file.exists():
            raise SetupError(f"{file}: there is no archive; `patchline archive` makes it")
    except OSError as error:
        done = "made" if access is Access.MAKE else "read"
        raise SetupError(f"{file.parent}: cannot be {done} ({error.strerror}); see paths.archive") from error
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(file)), connect_args={"timeout": _SQLITE_TIMEOUT_S})

    @sa.event.listens_for(engine, "connect")
    def set_up(connection: Any, _: object) -> None:
        connection.isolation_level = None  # or sqlite3 would begin transactions by itself, and not before DDL
        for pragma in ("query_only=1",) if read_only else ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _postgresql_engine(url: str, current_url: Callable[[], str] | None) -> sa.Engine:
    try:
        engine = sa.create_engine(_driven(url), connect_args=_POSTGRESQL, pool_timeout=5)
    except ImportError as error:
        raise SetupError(
            f"{error.name} is not installed; PostgreSQL needs: pip install 'patchline[archive-postgres]'"
        ) from error
    except (exc.ArgumentError, ValueError) as error:
        raise SetupError("the url of the archive is not of the form postgresql://user@host:port/database") from error

    @sa.event.listens_for(engine, "connect")
    def set_up(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(_DURABLE)
        connection.commit()

    @sa.event.listens_for(engine, "do_connect")
    def read_url(dialect: Any, _: object, __: object, parameters: dict[str, Any]) -> None:
        if current_url is None:
            return
        try:
            _, fresh = dialect.create_connect_args(_driven(current_url()))
        except (SetupError, exc.ArgumentError, ValueError) as error:
            raise Unavailable(f"the url of the archive cannot be used ({_text(error)})") from error
        parameters.clear()
        parameters.update(fresh | _POSTGRESQL)

    return engine


def _driven(url: str) -> sa.URL:
    return sa.make_url(url).set(drivername="postgresql+psycopg")


def _lacks_a_table_or_column(error: Exception) -> bool:
    cause = _cause(error)
    return getattr(cause, "sqlstate", None) in _UNDEFINED or _NO_SUCH.search(str(cause)) is not None


def _cause(error: Exception) -> BaseException:
    """Return the error of the driver."""
    return error.orig if isinstance(error, exc.DBAPIError) and error.orig is not None else error


def _text(error: Exception) -> str:
    """Return the first line of an error of a driver. SQLAlchemy's own text has the statement and its values."""
    cause = _cause(error)
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__
