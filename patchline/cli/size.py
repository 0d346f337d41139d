"""The subcommand that says how large a plant must be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from patchline import config
from patchline.cli.options import CONFIG
from patchline.protocol.errors import IncompleteError


def size(
    lines: Annotated[int, typer.Option(metavar="N", help="Production lines.")],
    rate: Annotated[float, typer.Option(metavar="N", help="Parts a second of each line.")],
    image_bytes: Annotated[int, typer.Option(metavar="BYTES", help="Of an encoded image.")] = 200_000,
    rejects: Annotated[float, typer.Option(metavar="SHARE", help="Of the parts that do not pass, 0 to 1.")] = 0.05,
    categories: Annotated[int, typer.Option(metavar="N", help="Products.")] = 1,
    chips: Annotated[bool, typer.Option("--chips", help="On Ascend 310 chips (27.7 ms), not on the CPU.")] = False,
    p99_ms: Annotated[float, typer.Option(metavar="MS", help="For 99 of 100 verdicts, from publishing.")] = 500.0,
    workers: Annotated[int | None, typer.Option(metavar="N", help="Check this number of chips or cores.")] = None,
    host_cores: Annotated[int, typer.Option(metavar="N", help="Cores of each host.")] = 8,
    brokers: Annotated[int, typer.Option(metavar="1|3", help="Nodes of RabbitMQ.")] = 3,
    disk_mb_s: Annotated[float, typer.Option(metavar="MB", help="What a disk writes a second.")] = 100.0,
    hours: Annotated[float, typer.Option(metavar="N", help="Of work a day.")] = 24.0,
    costs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measured costs; by default out/bench-against.json, else a probe."),
    ] = None,
    load: Annotated[
        str | None, typer.Option(metavar="NAME", help="A load of that file; the first one if none.")
    ] = None,
    config_file: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="Of the plant.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
) -> None:
    """Say how many workers, hosts, brokers and disks a plant needs, and how much network, from measured costs.

    Every number stands beside what it assumes, and what is uncertain is rounded up. Costs hold for images, categories
    and machines like those measured: `make bench-against` measures a machine. With neither a file nor --costs, golden
    images of the configuration's categories are measured here; --chips takes the highest costs of docs/performance.md.
    A bank that cannot be measured is named, and the answer is for the others: the exit code is 1 then.

    Example:  patchline size --lines 16 --rate 5 --chips --categories 40
    """
    from patchline.operations import measured_costs, sizing
    from patchline.runtime import terminal

    demand = sizing.Demand(
        lines, rate, image_bytes, rejects, categories, chips, p99_ms, host_cores, brokers, disk_mb_s, hours
    )
    settings = config.load(config_file or (CONFIG if CONFIG.exists() else config.PACKAGED))
    measured = measured_costs.read(costs, load, settings, chips)
    found = sizing.workers(demand, measured, workers)
    needs = list(sizing.needs(demand, measured, found, settings))
    if as_json:
        for need in needs:
            print(json.dumps({"needed": need.what, "value": need.number, "unit": need.unit, "assumed": need.because}))
    else:
        rows = [(need.what, need.value, need.because) for need in needs]
        terminal.table("What the plant needs", ("needed", "value", "assumed"), rows, text=True)
    if measured.unmeasured:
        raise IncompleteError(f"the answer is incomplete: {measured_costs.describe(measured.unmeasured)}")
