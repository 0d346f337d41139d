"""Subcommands for gates and their PLCs."""

from __future__ import annotations

from typing import Annotated

import typer

from patchline import config
from patchline.cli.options import CONFIG, Line, Settings, names, port
from patchline.protocol.errors import SetupError
from patchline.runtime import signals


def gate(
    line: Line,
    arm: Annotated[
        str | None,
        typer.Option("--exec", metavar="COMMAND", help="The arm's program: answers each action with a line."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the actions; there is no arm.")] = False,
    address: Annotated[
        str | None,
        typer.Option("--output", metavar="ADDRESS", help="A PLC or MQTT, such as modbus:HOST (docs/plc.md)."),
    ] = None,
    instance: Annotated[
        str | None,
        typer.Option(metavar="NAME", callback=names, help="Of this gate among those of the line; its host by default."),
    ] = None,
    metrics_port: Annotated[int | None, port("Serves metrics, /healthz and /readyz.")] = None,
    config_file: Settings = CONFIG,
) -> None:
    """Act on the verdicts of one line: accept or reject each part, once per job.

    The arm's program reads one JSON object a line. When it has acted it answers with the same line, or with the job id
    alone. A PLC reads results by part number from a register map (`patchline registers`). A part that was announced
    and has no verdict in time is rejected. Of several gates of a line one acts; the others stand by and take over.

    Example:  patchline gate --line press-3 --exec /etc/patchline/gate-press-3.sh
    """
    from patchline.gate import arms, process

    addresses = [address] if address is not None else []
    addresses += [f"exec:{arm}"] if arm is not None else []
    addresses += ["dry-run"] if dry_run else []
    if len(addresses) != 1:
        raise SetupError("say how the arm is told, in one way: --output ADDRESS, --exec COMMAND or --dry-run")
    settings = config.load(config_file)
    with signals.stop_event() as stop:
        process.run(settings, line, arms.opener(addresses[0], line, settings), stop, instance, metrics_port)


def registers(
    line: Line,
    as_csv: Annotated[bool, typer.Option("--csv", help="Every word, for the PLC's programming tool.")] = False,
    config_file: Settings = CONFIG,
) -> None:
    """Print the register map that a line's gate and its PLC share (see docs/plc.md).

    Example:  patchline registers --line press-3 --csv > press-3.csv
    """
    from patchline.plc import connecting, map_page

    layout = connecting.layout(config.load(config_file).plc.rules(line))
    print((map_page.as_csv if as_csv else map_page.as_markdown)(layout), end="")
