"""The subcommands for cameras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchline import config
from patchline.cli.job_states import JobStates
from patchline.cli.line import MAX_PATIENCE_MS
from patchline.cli.options import CONFIG, Line, Settings, names, port
from patchline.protocol.errors import SetupError
from patchline.runtime import signals

if TYPE_CHECKING:
    from patchline.camera.base import Camera

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
Count = Annotated[int | None, typer.Option(min=1, metavar="N", help="With --rate: end after N triggers.")]
Patience = Annotated[
    int | None, typer.Option(min=1, max=MAX_PATIENCE_MS, metavar="MS", help="Time for a verdict, from the trigger.")
]
Test = Annotated[
    bool, typer.Option("--test", help="Take ten frames, show exposure, sharpness and times, and send nothing.")
]
Out = Annotated[Path, typer.Option(metavar="FOLDER", help="With --test: where the last image goes.")]


def camera(
    line: Line,
    source: Source,
    category: PartsCategory = None,
    rate: Rate = None,
    count: Count = None,
    deadline_ms: Patience = None,
    test: Test = False,
    out: Out = Path("out"),
    metrics_port: Annotated[int | None, port("Shows the camera and the spool to Prometheus, and /readyz.")] = None,
    config_file: Settings = CONFIG,
) -> None:
    """Take a picture at each trigger, and send it as a job. The part is announced at the trigger.

    A part whose frame does not come within camera.frame_timeout_ms, or whose camera is lost, gets the verdict error
    with the reason no_image. A lost camera is opened anew, by itself. Prints one JSON line for each state of a job, as
    `patchline publish` does.

    Without --rate, each line of the standard input is a trigger: an empty one, or a JSON object with part_id, number
    (by which the PLC knows the part) and encoder_count. The end of the input ends the process.

    rtsp and v4l2 need camera.latency_ms. The file of PATCHLINE_CAMERA_LOGIN_FILE holds USER:PASSWORD of an rtsp camera.

    --test needs no RabbitMQ. It shows the frames as a worker will see them.

    mqtt:TOPIC is for cameras that send their pictures by themselves, by MQTT to RabbitMQ's plug-in. In TOPIC, {line} is
    the line, {category}, {part_id}, {number}, {encoder_count} and {captured_at} say what is known of a part, and + is
    anything: 'mqtt:cameras/{line}/{category}/{part_id}/{captured_at}'.

    Example:  patchline camera --line press-3 --category bottle --rate 5 folder:captured/
    """
    from patchline.camera import process, sources

    settings = config.load(config_file)
    patience_ms = deadline_ms or settings.publisher.deadline_ms
    if source.startswith("mqtt:"):
        if test or rate is not None or count is not None:
            raise SetupError("--rate, --count and --test are for cameras that are triggered; an MQTT camera sends")
        _devices(settings, line, category, source.removeprefix("mqtt:"), patience_ms, metrics_port)
        return
    category = _required(category)
    settings.category(category)
    if count is not None and rate is None:
        raise SetupError("--count needs --rate; without it, the end of the input is the last trigger")
    make = sources.parse(source, settings.camera.rules(line))
    order = process.Order(line, category, patience_ms, rate, count, metrics_port)
    if test:
        _test(settings, line, category, make, out)
        return
    with signals.stop_event() as stop:
        process.run(settings, order, make, JobStates().print, stop)


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


def _required(category: str | None) -> str:
    if category is None:
        raise SetupError("say the category of the parts with --category NAME")
    return category


def _devices(
    settings: config.Config, line: str, category: str | None, topic: str, deadline_ms: int, metrics_port: int | None
) -> None:
    from patchline.camera import mqtt_process

    order = mqtt_process.Order(line, category, topic, deadline_ms, metrics_port)
    with signals.stop_event() as stop:
        mqtt_process.run(settings, order, JobStates().print, stop)


def _test(settings: config.Config, line: str, category: str, make: Callable[[], Camera], out: Path) -> None:
    from patchline.camera import check

    report = check.check(make(), settings.camera.rules(line), settings.category(category), settings.images)
    print("\n".join(report.lines()))
    print(f"the last image: {check.save(report, out)}")
