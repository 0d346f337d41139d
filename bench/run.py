"""`make bench`: measure every row, print the table and write `out/bench.json`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from bench import cells, plant, publishing, rows, searches
from bench import line as lines
from bench.plant import DEFAULT, WIDE, WIDE8
from bench.rows import JPEG, PNG
from bench.searches import DEEP, SHALLOW
from bench.table import Row, of_this_machine
from patchline import config
from patchline.inspection.search import exact_search
from patchline.operations import doctor

_MEMORY_IMAGES = 10_000
_HEADROOM = 1.2  # latency is measured only if the line is this much faster than the images arrive


def run(settings: config.Config, out: Path) -> None:
    """Measure, print the table and write it to `out`.

    Raises:
        ServiceError: a server is missing.
    """
    better_kernels = doctor.better_kernels(doctor.instructions())
    with tempfile.TemporaryDirectory() as folder:
        bench_settings = plant.build(Path(folder), settings.paths.models)
        with lines.running(Path(folder), bench_settings) as line:
            measured = [
                *_limits(bench_settings, line, better_kernels),
                *_parts(bench_settings, line, better_kernels),
                *publishing.rows(line, DEFAULT),
                *_endurance(line),
                *cells.demo_rows(),
            ]
    table = of_this_machine(measured, *exact_search.blas_kernels())
    table.show()
    table.write(out)
    print(out)


def _limits(settings: config.Config, line: lines.Line, better_kernels: str | None) -> list[Row]:
    """Compare the line with the network alone and the reference loop; measure its latency if it keeps up."""
    measured: list[Row] = []
    limits = {}
    for category in (WIDE, WIDE8, DEFAULT):
        network_rows, limits[category] = rows.network_alone(settings, category, len(os.sched_getaffinity(0)))
        measured += network_rows
        for content_type in (PNG, JPEG):
            measured.append(rows.end_to_end(line, category, content_type, limits[category], "network alone"))
        if measured[-1].ours > _HEADROOM * rows.RATE:
            measured += rows.latency(line, category)
    measured.append(rows.end_to_end(line, WIDE8, JPEG, limits[WIDE], "network alone, not quantised"))
    return [*measured, *_against_reference(line, better_kernels)]


def _against_reference(line: lines.Line, better_kernels: str | None) -> list[Row]:
    """Compare with the reference loop on the installed kernels, and on better kernels if there are any for this CPU."""
    references = {"the reference's way": rows.reference_loop(line, WIDE)}
    if better_kernels is not None:
        name = f"the reference's way, {better_kernels} kernels"
        references[name] = rows.reference_loop(line, WIDE, better_kernels)
    return [
        rows.end_to_end(line, category, JPEG, measure, name)
        for name, measure in references.items()
        for category in (WIDE, WIDE8)
    ]


def _parts(settings: config.Config, line: lines.Line, better_kernels: str | None) -> list[Row]:
    measured = [*searches.rows(SHALLOW), *searches.rows(DEEP), searches.noise()]
    if better_kernels is not None:
        measured += searches.rows_with_kernels(better_kernels)
    for category in (WIDE, WIDE8, DEFAULT):
        measured += rows.stages(rows.load_inspector(settings, category), category)
    return [*measured, rows.job_size(line)]


def _endurance(line: lines.Line) -> list[Row]:
    return [*rows.devices(line), *rows.memory(line, DEFAULT, _MEMORY_IMAGES)]
