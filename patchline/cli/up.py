"""The subcommand that starts a whole plant on one host."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from patchline.cli import console
from patchline.cli.options import Serving
from patchline.protocol.errors import SetupError
from patchline.runtime import signals


def up(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Of the plant, as `patchline init` makes it.")
    ] = Path(),
    device: Serving = "cpu",
) -> None:
    """Run a plant on one host for a trial, until Ctrl-C: servers, archive, console, worker, gates and publishers.

    It uses RabbitMQ and Redis where the configuration says if they answer there, or else private ones, whose data stay
    in FOLDER/up. Each file publisher-LINE.env of FOLDER gives a line: a publisher that watches its folder, and a gate
    that only writes its actions down. What ends is started again. The first account of the console is made, and its
    password shown once.

    Example:  patchline up plant/
    """
    with console.needs_the_extra():
        import patchline.console.process  # noqa: F401 - said now, and not by a process that ends again and again
    from patchline.trial import plant

    config_file = folder.resolve() / "config.yaml"
    if not config_file.is_file():
        raise SetupError(f"{folder}: is no folder of a plant; make one with: patchline init {folder}")
    trial = plant.Trial(config_file, device, _say)
    with signals.stop_event() as stop:
        trial.run(stop, lambda address: welcome(config_file, address))


def welcome(config_file: Path, address: str) -> None:
    """Say where the console is, and make the first account."""
    _say("console", f"open {address} in a browser; Ctrl-C here ends everything")
    made = console.first_admin(config_file)
    if made is not None:
        name, password = made
        _say("account", f"name {name}, password {password}   (shown once; you choose another one when you log in)")


def _say(name: str, text: str) -> None:
    with suppress(OSError):  # a full disk takes no output, and must not keep a plant from being ended in order
        print(f"{time.strftime('%H:%M:%S')}  {name:<20} {text}", flush=True)
