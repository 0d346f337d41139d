"""The subcommand for cameras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchline import config
from patchline.cli.job_states import JobStates
from patchline.cli.line import MAX_PATIENCE_MS
from patchline.cli.options import CONFIG, Category, Line, Settings, port
from patchline.protocol.errors import SetupError
from patchline.runtime import signals

if TYPE_CHECKING:
    from patchline.camera.base import Camera


Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="aravis:ADDRESS, folder:PATH or simulated:[NAME=NUMBER,...].")
]
Rate = Annotated[
    float | None,
    typer.Option(min=0.001, max=1000, metavar="N", help="Triggers a second. By default each line of the input is one."),
]
Plc = Annotated[
    str | None,
    typer.Option("--triggers", metavar="ADDRESS", help="The PLC that triggers, such as modbus:HOST (docs/plc.md)."),
]
EndsAfter = Annotated[int | None, typer.Option(min=1, metavar="N", help="With --rate: end after N triggers.")]
Patience = Annotated[
    int | None, typer.Option(min=1, max=MAX_PATIENCE_MS, metavar="MS", help="Time for a verdict, from the trigger.")
]
Test = Annotated[
    bool, typer.Option("--test", help="Take ten frames, show exposure, sharpness and times, and send nothing.")
]
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="With --test: where the last image goes.")]
MetricsPort = Annotated[int | None, port("Shows the camera and the spool to Prometheus, and /readyz.")]


def camera(
    line: Line,
    category: Category,
    source: Source,
    rate: Rate = None,
    plc: Plc = None,
    count: EndsAfter = None,
    deadline_ms: Patience = None,
    test: Test = False,
    out: Out = Path("out"),
    metrics_port: MetricsPort = None,
    config_file: Settings = CONFIG,
) -> None:
    """Take a picture at each trigger, and send it as a job. The part is announced at the trigger.

    A part whose frame does not come within camera.frame_timeout_ms, or whose camera is lost, gets the verdict error
    with the reason no_image. A lost camera is opened anew, by itself. Prints one JSON line for each state of a job, as
    `patchline publish` does.

    Without --rate, each line of the standard input is a trigger: an empty one, or a JSON object with part_id, number
    (by which the PLC knows the part) and encoder_count. The end of the input ends the process. With --triggers, each
    part that a PLC numbers in its register map is a trigger. A part that is seen too late has no image.

    --test needs no RabbitMQ. It shows the frames as a worker will see them.

    Example:  patchline camera --line press-3 --category bottle --rate 5 folder:captured/
    """
    from patchline.camera import process, sources

    settings = config.load(config_file)
    settings.category(category)
    if count is not None and rate is None:
        raise SetupError("--count needs --rate; without it, the end of the input is the last trigger")
    if plc is not None and rate is not None:
        raise SetupError("--triggers and --rate: a camera is triggered in one way; leave one of them out")
    make = sources.parse(source, settings.camera.rules(line))
    order = process.Order(line, category, deadline_ms or settings.publisher.deadline_ms, rate, count, metrics_port, plc)
    if test:
        _test(settings, line, category, make, out)
        return
    with signals.stop_event() as stop:
        process.run(settings, order, make, JobStates().print, stop)


def _test(settings: config.Config, line: str, category: str, make: Callable[[], Camera], out: Path) -> None:
    from patchline.camera import check

    report = check.check(make(), settings.camera.rules(line), settings.category(category), settings.images)
    print("\n".join(report.lines()))
    print(f"the last image: {check.save(report, out)}")
