"""Subcommands for the archive of verdicts."""

from __future__ import annotations

from typing import Annotated

import typer

from patchline import config
from patchline.cli.options import CONFIG, Settings, port
from patchline.runtime import signals

app = typer.Typer(invoke_without_command=True)


@app.callback()
def archive(
    context: typer.Context,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="Only make the tables, or bring them up to date, and end.")
    ] = False,
    metrics_port: Annotated[int | None, port("Serves metrics, /healthz and /readyz.")] = None,
    config_file: Settings = CONFIG,
) -> None:
    """Store every verdict in a database: SQLite, or PostgreSQL (archive.url). It reads the queue patchline.verdicts.

    A verdict is acknowledged once its transaction is committed, and stored once however often it is delivered. While
    the database is away, verdicts wait in RabbitMQ.

    Example:  patchline archive --metrics-port 9130
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
