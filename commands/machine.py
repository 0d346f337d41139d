"""What shows, measures and examines a machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from commands.options import CONFIG, All, Dataset, Settings, Several, chosen
from inspection import config
from inspection.errors import SetupError


def demo(
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the report, the summary and the memory banks go.")
    ] = Path("out/demo"),
    config_file: Settings = CONFIG,
) -> None:
    """Run the whole line on 2,624 real solar cells: fit, publish, judge, act, report. Use `make demo`.

    Example:  make demo
    """
    from tools import demo as tool

    tool.run(config.load(config_file), out)


def bench(
    category: Several = None,
    all_: All = False,
    dataset: Dataset = None,
    check: Annotated[bool, typer.Option("--check", help="A few ratios only, each with its bound.")] = False,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Gets the figures as JSON.")] = Path("out"),
    config_file: Settings = CONFIG,
) -> None:
    """Measure the line against its own limits, in turn and in one run; or, with --dataset, time categories.

    Example:  patchline bench --all --dataset mvtec
    """
    from bench import check as short
    from bench import run as tool
    from tools import reference

    settings = config.load(config_file)
    if dataset is not None:
        reference.performance(settings, chosen(settings, category, all_), dataset, out)
    elif category or all_:
        raise SetupError("categories are timed on their images: name the --dataset")
    elif check:
        short.run(settings)
    else:
        tool.run(settings, out / "bench.json")


def doctor(config_file: Settings = CONFIG) -> None:
    """Say what this machine can run: devices, SDK, servers, models and banks; and what to do about the rest.

    Example:  patchline doctor
    """
    from tools import doctor as tool

    if not tool.run(config.load(config_file)):
        raise typer.Exit(1)


def services() -> None:
    """Run private RabbitMQ, Redis and Prometheus servers on loopback until Ctrl-C, and print how to use them.

    Example:  patchline services
    """
    from tools import services as tool

    tool.serve_until_interrupted()


def schema() -> None:
    """Print the messages as an AsyncAPI document with JSON Schemas, for clients in other languages.

    Example:  patchline schema > docs/asyncapi.json
    """
    from tools import schema as tool

    print(json.dumps(tool.asyncapi(), indent=2))
