"""Subcommands for the archive of verdicts. Those for its pictures are in `archive_pictures.py`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchline import config
from patchline.archive import times
from patchline.cli import archive_pictures
from patchline.cli.options import CONFIG, Settings, names, port
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Decision
from patchline.runtime import signals, terminal

if TYPE_CHECKING:
    from patchline.archive.base import Record
    from patchline.archive.ledger_database import LedgerDatabase

app = typer.Typer(invoke_without_command=True)
for command in (archive_pictures.picture, archive_pictures.hold, archive_pictures.release):
    app.command()(command)


@app.callback()
def archive(
    context: typer.Context,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Only make the tables, or bring them up to date, and end.")
    ] = False,
    metrics_port: Annotated[int | None, port("Serves metrics, /healthz and /readyz.")] = None,
    config_file: Settings = CONFIG,
) -> None:
    """Store every verdict in a database: SQLite, or PostgreSQL (archive.url); and pictures in a folder, or in S3.

    The queue patchline.ledger has what else is known of a part: its announcement, the acts on it, what the sensor saw,
    and what people judge. A message is acknowledged once its transaction is committed, and stored once however often it
    is delivered. While the database is away, messages wait in RabbitMQ. Pictures come from patchline.pictures.

    Example:  patchline archive --metrics-port 9140
    """
    if context.invoked_subcommand is not None:
        return
    from patchline.archive import process

    settings = config.load(config_file)
    if migrate:
        process.migrate(settings)
        return
    with signals.stop_event() as stop:
        process.run(settings, stop, metrics_port)


@app.command()
def find(
    part: Annotated[str | None, typer.Option(metavar="ID", help="The id of the part.")] = None,
    line: Annotated[str | None, typer.Option(metavar="NAME", callback=names, help="The line.")] = None,
    category: Annotated[str | None, typer.Option(metavar="NAME", callback=names, help="The category.")] = None,
    decision: Annotated[list[Decision] | None, typer.Option(help="The decision; again for more.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Decided then or later: 2026-11-28T09:30, 8h.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Decided before.")] = None,
    score: Annotated[str | None, typer.Option(metavar="LOW:HIGH", help="The score; either end may be missing.")] = None,
    bank: Annotated[
        str | None, typer.Option(metavar="VERSION", help="The version of the memory bank, by its first digits.")
    ] = None,
    most: Annotated[int | None, typer.Option(min=1, metavar="N", help="How many at most; 100, all with --out.")] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a .csv or .parquet file instead.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, also on a terminal: the messages as they were sent.")
    ] = False,
    config_file: Settings = CONFIG,
) -> None:
    """Print verdicts of the archive, the latest first: a short line of each on a terminal, otherwise a JSON object.

    The JSON is the message as it was sent. Its key archived_pictures lists the pictures of the job, if there are any.

    All options together must hold. Times are those of this machine, or spans before now (30m, 8h, 7d).

    Example:  patchline archive find --line press-3 --decision fail --since 8h --out rejects.csv
    """
    from patchline.archive import export
    from patchline.archive.base import Search
    from patchline.archive.picture_table import PictureTable
    from patchline.runtime.connections import now_ms

    lowest, highest = _range(score)
    limit = most if most is not None or out is not None else 100
    starts, ends = (None if text is None else times.parse(text, now_ms()) for text in (since, until))
    decisions = tuple(map(str, decision or []))
    search = Search(part, line, category, decisions, bank, starts, ends, lowest, highest, limit)
    with opened(config_file) as archive:
        records = export.in_pages(archive.find, search) if out is None else archive.find(search)
        found = export.with_pictures(records, PictureTable(archive).kinds)
        if out is not None:
            print(f"{export.write(found, out)} verdicts: {out}")
            return
        count = _print(found, as_json)
    if not count:
        print("no verdicts", file=sys.stderr)
    if count == limit and most is None:
        print(f"the latest {count}; there may be more: see --most and --out", file=sys.stderr)


def _print(found: Iterator[tuple[Record, list[str]]], as_json: bool) -> int:
    """Print verdicts with the kinds of their pictures. Return their number."""
    count, show = 0, _brief if sys.stdout.isatty() and not as_json else _shown
    for record, pictures in found:
        print(show(record, pictures))
        count += 1
    return count


def _shown(record: Record, pictures: list[str]) -> str:
    """Return the document as it was sent, with a key for its pictures."""
    document = record.document.rstrip()
    return f'{document[:-1]},"archived_pictures":{json.dumps(pictures)}}}' if pictures else document


def _brief(record: Record, pictures: list[str]) -> str:
    """Return a verdict in one short line."""
    score = "" if record.score is None else f", score {record.score:g}"
    because = f" ({record.reason})" if record.reason else ""
    kept = f", {' and '.join(pictures)}" if pictures else ""
    part = f"{record.line} {record.category} part {record.part_id}"
    text = f"{record.decision:7}  {part}{because}{score}, job {record.job_id}{kept}"
    return f"{times.local(record.decided_at)}  {terminal.printable(text)}"


def _range(text: str | None) -> tuple[float | None, float | None]:
    lowest, colon, highest = (text or ":").partition(":")
    try:
        if not colon:
            raise ValueError
        return (float(lowest) if lowest else None, float(highest) if highest else None)
    except ValueError:
        raise SetupError(f"--score {text}: write LOW:HIGH, such as 900:1200, 900: or :1200") from None


@contextmanager
def opened(config_file: Path) -> Iterator[LedgerDatabase]:
    """Open the archive for reading. What it cannot do is one line."""
    from patchline.archive.database import Access

    with archive_pictures.opened(config.load(config_file), Access.READ) as archive:
        yield archive
