"""`make bench`: every row, a table, and `out/bench.json`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from bench import cells, plant, rows, searches
from bench import line as lines
from bench.plant import DEFAULT, WIDE, WIDE8
from bench.rows import JPEG, PNG
from bench.searches import DEEP, LARGE, SMALL
from bench.table import Row, Table
from patchline import config
from patchline.devices import openvino_backbone
from patchline.inspection.search import exact_search
from patchline.operations import doctor

_MANY_IMAGES = 10_000
_FAST_ENOUGH = 1.2  # times the rate at which latency is measured


def run(settings: config.Config, out: Path) -> None:
    """Measure, print a table and write it to `out`.

    Raises:
        ServiceError: a server is missing.
    """
    better = doctor.better_kernels(doctor.instructions())
    with tempfile.TemporaryDirectory() as name:
        own = plant.build(Path(name), settings.paths.models)
        with lines.running(Path(name), own) as line:
            found = [*_limits(own, line, better), *_parts(own, line, better), *_endurance(line), *cells.of_demo()]
    can = (*doctor.instructions(), *exact_search.blas_kernels())
    table = Table(cpu=openvino_backbone.cpu_name(), cores=len(os.sched_getaffinity(0)), can=can, rows=tuple(found))
    table.show()
    table.write(out)
    print(out)


def _limits(settings: config.Config, line: lines.Line, better: str | None) -> list[Row]:
    """The line against the bare network and against the reference's way; its latency where it keeps up."""
    found: list[Row] = []
    limits = {}
    for category in (WIDE, WIDE8, DEFAULT):
        bare, limits[category] = rows.bare(settings, category, len(os.sched_getaffinity(0)))
        found += bare
        for content_type in (PNG, JPEG):
            found.append(rows.end_to_end(line, category, content_type, limits[category], "network alone"))
        if found[-1].ours > _FAST_ENOUGH * rows.RATE:
            found += rows.latency(line, category)
    found.append(rows.end_to_end(line, WIDE8, JPEG, limits[WIDE], "network alone, not quantised"))
    return [*found, *_against_reference(line, better)]


def _against_reference(line: lines.Line, better: str | None) -> list[Row]:
    """As the packages install themselves, and where they do not know the CPU, with the kernels that suit it."""
    ways = {"the reference's way": rows.reference_way(line, WIDE)}
    if better is not None:
        ways[f"the reference's way, {better} kernels"] = rows.reference_way(line, WIDE, better)
    return [
        rows.end_to_end(line, category, JPEG, way, name) for name, way in ways.items() for category in (WIDE, WIDE8)
    ]


def _parts(settings: config.Config, line: lines.Line, better: str | None) -> list[Row]:
    found = [*searches.rows(SMALL), *searches.rows(LARGE), *searches.rows(DEEP), searches.noise()]
    if better is not None:
        found += searches.with_kernels(better)
    for category in (WIDE, WIDE8, DEFAULT):
        found += rows.stages(rows.inspector(settings, category), category)
    return [*found, rows.messages(line)]


def _endurance(line: lines.Line) -> list[Row]:
    return [*rows.devices(line), *rows.memory(line, DEFAULT, _MANY_IMAGES)]
