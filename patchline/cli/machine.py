"""Subcommands for a machine: init, demo, bench, doctor, services, schema."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from patchline import config
from patchline.cli import console
from patchline.cli.options import CONFIG, All, Dataset, Serving, Settings, Several, chosen, names
from patchline.protocol.errors import SetupError


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder, such as plant/.")],
    line: Annotated[str, typer.Option(metavar="NAME", callback=names, help="The production line.")] = "line-1",
    category: Annotated[str, typer.Option(metavar="NAME", callback=names, help="The parts' category.")] = "part",
) -> None:
    """Write a folder for a plant on one host: a commented configuration, folders, and deployment files.

    In the folder of a plant it writes the files of one more line.

    Example:  patchline init plant/ --line press-3 --category gasket
    """
    from patchline.operations import init

    files = init.init(folder, line, category)
    print("\n".join(map(str, files)))
    for warning in init.warnings(folder):
        print(f"note: {warning}", file=sys.stderr)
    print(f"next: patchline up {folder}    # starts everything for a trial, and prints the console's address")
    print("then, in the browser: log in, teach the category good parts, activate it, and send pictures to the line")
    print(f"{folder / 'README.md'} has the other steps")


def demo(
    plant: Annotated[
        bool, typer.Option("--plant", help="Cells on a belt with an arm and a PLC, seen in the terminal as it runs.")
    ] = False,
    watched: Annotated[
        bool,
        typer.Option(
            "--console", help="Also show it in the browser, and stay until Ctrl-C. Needs the extra `console`."
        ),
    ] = False,
    parts: Annotated[int, typer.Option(min=1, help="With --plant: cells on the belt.")] = 300,
    rate: Annotated[float, typer.Option(min=0.5, max=40.0, help="With --plant: cells per second.")] = 5.0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="For all files; out/demo by default, with --plant out/demo-plant."),
    ] = None,
    config_file: Annotated[
        Path, typer.Option("--config", metavar="FILE", help="Instead of the packaged one.", show_default=False)
    ] = config.PACKAGED,
) -> None:
    """Run the whole line on 2,624 real solar cells: fit, publish, judge, act, report.

    With --plant the cells come on a simulated belt. A PLC triggers the camera, and its arm throws out every cell that
    the gate does not accept. Ctrl-C ends it.

    Needs the extra `demo` (the images), and RabbitMQ, Redis and Prometheus of the distribution.

    With --console, parts, rejects and their pictures can be seen and reviewed in the browser, also after the end.

    Example:  patchline demo --plant --console
    """
    try:
        from patchline.demo import belt, run
        from patchline.demo.watched import Watch
    except ImportError as error:
        raise SetupError(f"{error.name} is not installed; install Patchline with its extra `demo`") from error
    settings, watch = config.load(config_file), None
    if watched:
        with console.needs_the_extra():
            import patchline.console.process  # noqa: F401 - said now, and not after the fit
        watch = Watch(lambda file: console.first_admin(file, once=False))
    if plant:
        belt.run(settings, out or Path("out/demo-plant"), parts, rate, watch)
    else:
        run.run(settings, out or Path("out/demo"), watch)


def bench(
    category: Several = None,
    all_: All = False,
    dataset: Dataset = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Gets the figures as JSON.")] = Path("out"),
    device: Serving = "cpu",
    config_file: Settings = CONFIG,
) -> None:
    """Time categories on their images, in one thread: the reference application's performance evaluation.

    Example:  patchline bench --all --dataset mvtec --device ascend:0
    """
    from patchline.banks import serving
    from patchline.devices import backbone
    from patchline.evaluation import reference

    settings = config.load(config_file)
    if dataset is None:
        raise SetupError("categories are timed on their images: name the --dataset")
    with closing(serving.Loader(settings, backbone.Device.parse(device), streams=1)) as loader:
        reference.performance(loader, chosen(settings, category, all_), dataset, out)


def doctor(device: Serving = "cpu", config_file: Settings = CONFIG) -> None:
    """Report what this machine can run (devices, SDK, servers, models, banks) and how to fix the rest.

    Every category is loaded on the device, and its golden images are scored.

    Example:  patchline doctor --device ascend:0
    """
    from patchline.devices import backbone
    from patchline.operations import doctor

    if not doctor.run(config.load(config_file), backbone.Device.parse(device)):
        raise typer.Exit(1)


def services() -> None:
    """Run private RabbitMQ, Redis and Prometheus servers on loopback until Ctrl-C, and print how to use them.

    Example:  patchline services
    """
    from patchline.services import private_servers

    private_servers.serve_until_interrupted()


def schema() -> None:
    """Print the messages as an AsyncAPI document with JSON Schemas, for clients in other languages.

    Example:  patchline schema > docs/asyncapi.json
    """
    from patchline.protocol import asyncapi

    print(json.dumps(asyncapi.asyncapi(), indent=2))
