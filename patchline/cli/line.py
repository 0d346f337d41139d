"""Subcommands for the processes of a line, their queues and their recent verdicts."""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchline import config
from patchline.cli.job_states import JobStates
from patchline.cli.options import CONFIG, Category, Line, NewCategory, Settings, names, port
from patchline.protocol.errors import SetupError
from patchline.runtime import container, health, heap, signals

if TYPE_CHECKING:
    from patchline.publisher.category_pattern import CategoryPattern

MAX_PATIENCE_MS = 7 * 24 * 3_600_000


PartsCategory = Annotated[
    str | None,
    typer.Option("--category", metavar="NAME", callback=names, help="The parts' category in the configuration."),
]
CategoryFrom = Annotated[
    str | None,
    typer.Option(metavar="PATTERN", help="With --watch, instead: the category from each path, such as '{category}/*'."),
]
NumberFrom = Annotated[
    str | None, typer.Option(metavar="REGEX", help="The part's number for a PLC, in its id: such as '([0-9]+)$'.")
]
HandedIn = Annotated[
    bool,
    typer.Option("--hand-in", help="With --watch, instead: FOLDER is that of `patchline console --hand-in FOLDER`."),
]
MqttTopic = Annotated[
    str | None,
    typer.Option(metavar="TOPIC", help="Also make the queue of each line for `patchline camera mqtt:TOPIC`."),
]
Patience = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MAX_PATIENCE_MS,
        metavar="MS",
        help="Time for a verdict: from the capture with --watch, else from sending.",
    ),
]


def worker(
    device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="One device, served by this process: cpu, cpu:0, ascend:0.")
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(metavar="DEVICE,...", help="Several devices, each served by a supervised process: cpu:0,cpu:1."),
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Serve this category (repeatable). All by default.")
    ] = None,
    metrics_port: Annotated[int | None, port("Port of the first device; the next devices use the next ports.")] = None,
    config_file: Settings = CONFIG,
) -> None:
    """Judge images: take jobs from RabbitMQ, publish a verdict for each.

    SIGTERM or Ctrl-C drains: current jobs are finished, the others go back to the queue. A second signal exits at once.

    Example:  patchline worker --device cpu
    """
    heap.share(max(1, container.read().cpus // 2))  # more threads than that seldom allocate at the same time
    from patchline.devices import backbone
    from patchline.worker import process, supervisor
    from patchline.worker.metrics import SupervisorMetrics

    settings = config.load(config_file)
    served = category or []
    first_port = settings.worker.metrics_port if metrics_port is None else metrics_port
    if device and devices:
        raise SetupError("use either --device (one process) or --devices (a supervised process for each device)")
    with signals.stop_event() as stop:
        if devices is None:
            process.run(settings, backbone.Device.parse(device or "cpu"), served, first_port, stop)
            return
        arguments = ["--config", str(config_file), *(word for name in served for word in ("--category", name))]
        commands = {
            backbone.Device.parse(name): supervisor.worker_command(
                ["--device", name, "--metrics-port", str(first_port and first_port + number), *arguments]
            )
            for number, name in enumerate(devices.split(","))
        }
        metrics, turns = SupervisorMetrics(list(map(str, commands))), health.Health(settings.worker.stuck_s)
        turns.is_consuming = lambda: True
        own_port = (settings.worker.supervisor_port or None) if first_port else None
        health.try_to_serve(settings.worker.metrics_host, own_port, metrics.registry, turns, "supervising")
        supervisor.supervise(commands, settings.worker, metrics.worker_restarted, stop, on_turn=turns.record_progress)


def publish(
    line: Line,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Images, or folders of images.")],
    category: PartsCategory = None,
    category_from: CategoryFrom = None,
    new_category: NewCategory = False,
    hand_in: HandedIn = False,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and send what appears in the (one) folder.")] = False,
    rate: Annotated[
        float | None, typer.Option(min=0.001, metavar="N", help="Images a second; as fast as possible by default.")
    ] = None,
    deadline_ms: Patience = None,
    number_from: NumberFrom = None,
    metrics_port: Annotated[int | None, port("Shows the spool's depth and age to Prometheus, and /readyz.")] = None,
    config_file: Settings = CONFIG,
) -> None:
    """Send images as jobs: each one announced, sent and confirmed by RabbitMQ, or kept on disk until it is.

    Prints one JSON line for each state of a job: confirmed (RabbitMQ has it), spooled (the disk has it), given_up (it
    waited too long), refused (it is larger than RabbitMQ or the workers take, for the `reason`; its part is rejected).
    `late` is true if its deadline has passed. The same file gets the same job id again. If the reader of these lines
    ends, publishing goes on without them.

    Lines of one category share its queue. Give thousands of files a --rate, or the other lines are late meanwhile.

    --watch takes an image once its writer has closed it or moved it in, or when it has rested. Hidden and system
    folders are left out. In a pattern, {category} is the name of a category, * anything but a slash, **/ any folders.
    With --hand-in it sends what people hand to this line in the console: all that is in FOLDER/LINE/CATEGORY/.

    Example:  patchline publish --line press-3 --category bottle --rate 5 captured/
    """
    from patchline.protocol import image_files
    from patchline.publisher import folder_setup, process, source
    from patchline.publisher.folder_metrics import FolderMetrics
    from patchline.runtime.metrics import Registry

    settings = config.load(config_file)
    pattern = _pattern(settings, category, category_from, hand_in, new_category, watch, paths)
    patience_ms, registry = deadline_ms or settings.publisher.deadline_ms, Registry()
    with signals.stop_event() as stop, ExitStack() as stack:
        if watch:
            metrics = FolderMetrics(registry, line)
            folder = paths[0] / line if hand_in else paths[0]
            watched = folder_setup.open_watch(folder, line, settings, patience_ms, pattern, metrics, stop, hand_in)
            captures, is_looking = stack.enter_context(closing(watched)).captures(), metrics.is_looking
        else:
            captures, is_looking = source.from_files(image_files.find(paths), rate, stop), _always
        captures = captures if number_from is None else source.numbered(captures, number_from)
        run = partial(process.run, settings, line, category, deadline_ms=patience_ms, metrics_port=metrics_port)
        run(captures, on_state=JobStates().print, stop=stop, registry=registry, is_looking=is_looking, hand_in=hand_in)


def _always() -> bool:
    return True


def _pattern(
    settings: config.Config,
    category: str | None,
    given: str | None,
    hand_in: bool,
    is_new: bool,
    watch: bool,
    paths: list[Path],
) -> CategoryPattern | None:
    """Return what tells the category of a watched image, if --category does not. Raise SetupError: options contradict.

    Categories that people teach have a recipe: --hand-in takes them, too.
    """
    from patchline.publisher.category_pattern import CategoryPattern

    if watch and len(paths) != 1:
        raise SetupError("--watch takes exactly one folder")
    if (category is not None) + (given is not None) + hand_in != 1:
        raise SetupError("say the category of the parts: --category NAME, or --category-from PATTERN, or --hand-in")
    if category is None and not watch:
        advice = "without it, publish each category with --category"
        raise SetupError(f"--category-from and --hand-in need --watch; {advice}")
    if category is None and is_new:
        raise SetupError("--new-category is about --category; a pattern knows the categories of the configuration")
    require_known(settings, category, is_new)
    if hand_in:
        return CategoryPattern("{category}/*", settings.categories, lambda name: settings.recipe(name) is not None)
    return None if given is None else CategoryPattern(given, settings.categories)


def require_known(settings: config.Config, category: str | None, is_new: bool) -> None:
    """Refuse a category that is not known: see `patchline.banks.known_categories`. None: each part has its own."""
    from patchline.banks import known_categories

    if category is not None and is_new:
        settings.category(category)  # it needs a recipe all the same
    elif category is not None:
        known_categories.require(settings, category)


def traces(config_file: Settings = CONFIG) -> None:
    """Export the trace of every verdict by OTLP: the wait in the queue and each stage. Needs the extra `tracing`.

    It runs independently of the workers. OTEL_EXPORTER_OTLP_ENDPOINT is the address of the collector.

    Example:  OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318 patchline traces
    """
    from patchline.tracing import process

    with signals.stop_event() as stop:
        process.run(config.load(config_file), stop)


def show(
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="The id of the job.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the heat map is written.")] = Path("out"),
    config_file: Settings = CONFIG,
) -> None:
    """Print the verdict of a recent job and write its heat map.

    By default heat maps of fail and review are kept, for an hour (worker.pictures, redis.keep_picture_s).

    Example:  patchline show 5f0c7a52-8a5c-5a53-b9f7-6f0a3d2b1c11
    """
    from patchline.operations import recent

    verdict, picture = recent.show(config.load(config_file), job_id, out)
    print(verdict.model_dump_json(indent=2, exclude_none=True))
    print(picture or "no heat map: the part passed, it was too long ago, or worker.pictures is none")


def recent(
    line: Line,
    category: Category,
    count: Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="How many verdicts at most.")] = 20,
    config_file: Settings = CONFIG,
) -> None:
    """Print the last verdicts of a line and category, newest first, one JSON object a line.

    Example:  patchline recent --line press-3 --category bottle --count 5
    """
    from patchline.operations import recent

    verdicts = recent.last(config.load(config_file), line, category, count)
    for verdict in verdicts:
        print(verdict.model_dump_json(exclude_none=True))
    if not verdicts:
        typer.echo(f"no recent verdicts of line {line}, category {category}", err=True)


def topology(
    line: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", callback=names, help="Also make the queues of this line's gates (repeatable)."),
    ] = None,
    gates: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="The gates of each line; by default one with this host's name."),
    ] = None,
    traces: Annotated[bool, typer.Option("--traces", help="Also make the queue of `patchline traces`.")] = False,
    mqtt: MqttTopic = None,
    definitions: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write a definitions file and the users' urls instead."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(metavar="URL", help="With --definitions: the broker's url for its users.")
    ] = None,
    config_file: Settings = CONFIG,
) -> None:
    """Make the exchanges and queues on RabbitMQ. Workers, publishers and gates also do so if they may.

    With --definitions, the plant gets five users without the right to make queues. An administrator imports
    FOLDER/definitions.json; PATCHLINE_AMQP_URL_FILE of each process names the user's file in FOLDER. --mqtt adds the
    user `camera` for `patchline camera mqtt:TOPIC`, and for each line `device-LINE`, which may publish these topics.

    Example:  patchline topology --line press-3 --line press-4
    """
    from patchline.camera.mqtt_topic import TopicPattern
    from patchline.gate import instance
    from patchline.operations import plant_users
    from patchline.protocol import topology as queues
    from patchline.runtime import connections

    settings = config.load(config_file)
    instances = [instance.default_name()] if gates is None else gates.split(",")
    names(instances)
    topologies = [connections.plant(settings), connections.ledger(settings), queues.bank_news()]
    topologies += [*([queues.traces()] if traces else []), *(queues.gate(name, instances) for name in line or [])]
    topics = {} if mqtt is None else {name: TopicPattern(mqtt, name) for name in line or []}
    max_bytes = settings.broker.mqtt_max_bytes
    topologies += [queues.mqtt(name, topic.binding, max_bytes) for name, topic in topics.items()]
    if definitions is not None:
        devices = {f"device-{name}": topic.permission for name, topic in topics.items()}
        print(*plant_users.write(definitions, topologies, address or settings.broker.url, devices), sep="\n")
        return
    with connections.connect(settings, "topology") as broker:
        for topology in topologies:
            broker.declare(topology)
            print(*(f"{queue.name}\n" for queue in topology.queues), sep="", end="")
