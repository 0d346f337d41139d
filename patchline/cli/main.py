"""The command line: one subcommand for each process and tool, in the order in which people meet them."""

from __future__ import annotations

import os
import sys

import typer

from patchline.broker.base import BrokerError
from patchline.cli import (
    archive,
    bank_images,
    bank_shadow,
    bank_versions,
    banks,
    camera,
    console,
    dead_letters,
    gate,
    ledger,
    line,
    machine,
    models,
    replay,
    report,
    size,
    up,
)
from patchline.protocol.errors import PatchlineError
from patchline.runtime import disk, logs

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Patchline inspects parts on production lines: images in over RabbitMQ, one accountable verdict for each.",
)
for command in (
    machine.init,
    up.up,
    line.worker,
    line.publish,
    camera.camera,
    camera.cameras,
    gate.gate,
    gate.registers,
    line.traces,
    line.show,
    line.recent,
    report.report,
    line.topology,
    banks.fit,
    banks.calibrate,
    banks.evaluate,
    banks.import_bank,
    models.convert,
    models.quantize,
    models.probe,
    models.om,
    machine.doctor,
    machine.services,
    machine.schema,
    machine.demo,
    machine.bench,
    size.size,
):
    app.command()(command)
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(archive.app, name="archive")
for subcommand in (ledger.part, ledger.gaps, ledger.judge, ledger.rates, ledger.threshold):
    archive.app.command()(subcommand)
archive.app.command()(replay.replay)
app.add_typer(console.app, name="console")
app.add_typer(bank_versions.app, name="banks")
bank_versions.app.command()(bank_shadow.shadow)
bank_versions.app.command()(bank_shadow.report)
bank_versions.app.command()(bank_images.add)
bank_versions.app.command()(bank_images.remove)


def main() -> None:
    """The entry point: errors for people are one line, without a stack trace."""
    try:
        logs.configure(os.environ.get("PATCHLINE_LOG_LEVEL", "info"))
        app()
    except (PatchlineError, BrokerError) as error:
        logs.say(f"patchline: {error}")
        sys.exit(error.exit_code if isinstance(error, PatchlineError) else 2)
    except KeyboardInterrupt:
        sys.exit(130)  # 128 and SIGINT, as shells have it
    except PermissionError as error:
        logs.say(f"patchline: {error.filename}: permission denied; run it as a user who may use it")
        sys.exit(2)
    except OSError as error:
        if not disk.is_full(error):
            raise
        logs.say(f"patchline: {disk.full(error.filename or 'a file')}")
        sys.exit(2)
    finally:
        logs.flush()


if __name__ == "__main__":
    main()
