"""The subcommands for cameras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchline import config
from patchline.cli.job_states import JobStates
from patchline.cli.line import MAX_PATIENCE_MS, require_known
from patchline.cli.options import CONFIG, Line, NewCategory, Settings, names, port
from patchline.protocol.errors import SetupError
from patchline.runtime import signals

if TYPE_CHECKING:
    from patchline.camera.base import Camera
    from patchline.camera.order import Order

SOURCES = "aravis:ADDRESS, pylon:SERIAL, rtsp://HOST/PATH, v4l2:DEVICE, mqtt:TOPIC, folder:PATH or simulated:[...]."

Source = Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCES)]
PartsCategory = Annotated[
    str | None,
    typer.Option(
        "--category", metavar="NAME", callback=names, help="The parts' category. With mqtt: TOPIC may say it."
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(min=0.001, max=1000, metavar="N", help="Triggers a second. By default each line of the input is one."),
]
TriggeredBy = Annotated[
    str | None,
    typer.Option("--triggers", metavar="ADDRESS", help="What triggers: modbus:HOST, mqtt://HOST or pipe:PATH."),
]
EndsAfter = Annotated[int | None, typer.Option(min=1, metavar="N", help="With --rate: end after N triggers.")]
Patience = Annotated[
    int | None, typer.Option(min=1, max=MAX_PATIENCE_MS, metavar="MS", help="Time for a verdict, from the trigger.")
]
Test = Annotated[
    bool, typer.Option("--test", help="Take ten frames, show exposure, sharpness and times, and send nothing.")
]
Record = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Write N images of good parts into a folder for fit, and send nothing."),
]
Add = Annotated[bool, typer.Option("--add", help="With --record: the folder may hold other images.")]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Where images go: with --test to out, with --record to out/good by default."),
]
MetricsPort = Annotated[int | None, port("Shows the camera and the spool to Prometheus, and /readyz.")]


def camera(
    line: Line,
    source: Source,
    category: PartsCategory = None,
    new_category: NewCategory = False,
    rate: Rate = None,
    triggered_by: TriggeredBy = None,
    count: EndsAfter = None,
    deadline_ms: Patience = None,
    test: Test = False,
    record: Record = None,
    add: Add = False,
    out: Out = None,
    metrics_port: MetricsPort = None,
    config_file: Settings = CONFIG,
) -> None:
    """Take a picture at each trigger, and send it as a job. The part is announced at the trigger.

    A part whose frame does not come within camera.frame_timeout_ms, or whose camera is lost, gets the verdict error
    with the reason no_image. A lost camera is opened anew, by itself. Prints one JSON line for each state of a job, as
    `patchline publish` does.

    Without --rate, each line of the standard input is a trigger: an empty one, or a JSON object with part_id, number
    (by which the PLC knows the part) and encoder_count. The end of the input ends the process. With --triggers, each
    part that a PLC numbers, each message on an MQTT topic, or each line in a named pipe is one. A part that is seen too
    late has no image.

    rtsp and v4l2 need camera.latency_ms. The file of PATCHLINE_CAMERA_LOGIN_FILE holds USER:PASSWORD of an rtsp camera.

    mqtt:TOPIC is for cameras that send their pictures by themselves (docs/mqtt-in.md).

    --test and --record need no RabbitMQ. --test shows the frames as a worker will see them. --record takes the triggers
    that the line would take, and writes the images that would be sent.

    Example:  patchline camera --line press-3 --category bottle --rate 5 folder:captured/
    """
    from patchline.camera.order import Order

    settings = config.load(config_file)
    patience_ms = deadline_ms or settings.publisher.deadline_ms
    _check(rate, count, triggered_by, test, record, add)
    require_known(settings, category, new_category or test or record is not None)
    if source.startswith("mqtt:"):
        _check_untriggered(rate, triggered_by, test, record)
        _receive(settings, line, category, source.removeprefix("mqtt:"), patience_ms, metrics_port)
        return
    if category is None:
        raise SetupError("say the category of the parts with --category NAME")
    order = Order(line, category, patience_ms, rate, count, metrics_port, triggered_by)
    _take(settings, order, source, test, record, add, out)


def cameras(config_file: Settings = CONFIG) -> None:
    """List the cameras that can be opened on this host, each with the SOURCE for `patchline camera`.

    Libraries that are not installed are said, with what to install. Without a configuration file, the packaged one is
    used: it only says where the system's Python is.

    Example:  patchline cameras
    """
    from patchline.camera import listing

    settings = config.load(config_file if config_file.exists() or config_file != CONFIG else config.PACKAGED)
    for line in listing.lines(settings.camera):
        print(line, flush=True)


def _check_untriggered(rate: float | None, triggered_by: str | None, test: bool, record: int | None) -> None:
    if test or record is not None or rate is not None or triggered_by is not None:
        raise SetupError(
            "--rate, --triggers, --test and --record are for cameras that are triggered; an MQTT camera sends"
        )


def _check(
    rate: float | None, count: int | None, triggered_by: str | None, test: bool, record: int | None, add: bool
) -> None:
    """Raise SetupError if options contradict each other."""
    if count is not None and rate is None:
        raise SetupError("--count needs --rate; without it, the end of the input is the last trigger")
    if triggered_by is not None and rate is not None:
        raise SetupError("--triggers and --rate: a camera is triggered in one way; leave one of them out")
    if test and record is not None:
        raise SetupError("--test and --record: leave one of them out")
    if add and record is None:
        raise SetupError("--add needs --record: it is about its folder")


def _receive(
    settings: config.Config, line: str, category: str | None, topic: str, deadline_ms: int, metrics_port: int | None
) -> None:
    from patchline.camera import mqtt_process

    order = mqtt_process.Order(line, category, topic, deadline_ms, metrics_port)
    with signals.stop_event() as stop:
        mqtt_process.run(settings, order, JobStates().print, stop)


def _take(
    settings: config.Config,
    order: Order,
    source: str,
    test: bool,
    wanted: int | None,
    add: bool,
    out: Path | None,
) -> None:
    from patchline.camera import process, sources

    make = sources.parse(source, settings.camera.rules(order.line))
    if test:
        _test(settings, order.line, order.category, make, out or Path("out"))
        return
    if wanted is not None:
        _record(settings, order, make, out or Path("out/good"), wanted, add)
        return
    with signals.stop_event() as stop:
        process.run(settings, order, make, JobStates().print, stop)


def _record(
    settings: config.Config, order: Order, make: Callable[[], Camera], out: Path, wanted: int, add: bool
) -> None:
    from patchline.camera import record

    with signals.stop_event() as stop:
        count = record.record(settings, order, make, out, wanted, stop, add)
    print(f"{count} images in {out}")
    if count < wanted:
        raise SetupError(f"{wanted} images were wanted: the triggers ended before; the log says why parts had no image")
    print(f"next: patchline fit --category {order.category} {out}")


def _test(settings: config.Config, line: str, category: str, make: Callable[[], Camera], out: Path) -> None:
    from patchline.camera import check

    report = check.check(make(), settings.camera.rules(line), settings.category(category), settings.images)
    print("\n".join(report.lines()))
    print(f"the last image: {check.save(report, out)}")
