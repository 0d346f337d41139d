"""The command line: one subcommand for each process and tool. Only wiring."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.base import BrokerError
from inspection import config
from inspection.errors import PatchlineError, SetupError
from process import log, shutdown

if TYPE_CHECKING:
    from inspection import memory_bank

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Patchline inspects parts on production lines: images in over RabbitMQ, one accountable verdict for each.",
)

Settings = Annotated[Path, typer.Option("--config", metavar="FILE", help="The configuration file.", show_default=True)]
Line = Annotated[str, typer.Option("--line", metavar="NAME", help="The production line, such as press-3.")]
Category = Annotated[
    str, typer.Option("--category", metavar="NAME", help="The category of the parts, as in the configuration.")
]
CONFIG = Path("config.yaml")


def main() -> None:
    """The entry point: errors for people are one line, without a stack trace."""
    log.set_up()
    try:
        app()
    except (PatchlineError, BrokerError) as error:
        print(f"patchline: {error}", file=sys.stderr)
        sys.exit(2)


@app.command()
def worker(
    device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="One device, in this process: cpu, cpu:0, ascend:0.")
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(metavar="DEVICE,...", help="Several devices, a supervised process each: cpu:0,cpu:1."),
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Serve this category; again for more. All by default.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(metavar="PORT", help="Of the first device; the others count up from it.")
    ] = None,
    config_file: Settings = CONFIG,
) -> None:
    """Judge images: take jobs from RabbitMQ, publish a verdict for each.

    SIGTERM or Ctrl-C drains: the jobs in hand are finished, the others go back. A second one leaves at once.

    Example:  patchline worker --device cpu
    """
    from inspection import backbone
    from worker import process, supervisor

    settings = config.load(config_file)
    names = category or []
    port = settings.worker.metrics_port if metrics_port is None else metrics_port
    if device and devices:
        raise SetupError("--device and --devices exclude each other: one process, or a supervised process for each")
    with _stoppable() as stop:
        if devices is None:
            process.run(settings, backbone.Device.parse(device or "cpu"), names, port, stop)
            return
        arguments = ["--config", str(config_file), *(word for name in names for word in ("--category", name))]
        commands = {
            backbone.Device.parse(each): supervisor.worker_command(
                ["--device", each, "--metrics-port", str(port and port + number), *arguments]
            )
            for number, each in enumerate(devices.split(","))
        }
        supervisor.supervise(commands, settings.worker.drain_s + 5.0, stop)


@app.command()
def publish(
    line: Line,
    category: Category,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Images, or folders of images.")],
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and send what appears in the (one) folder.")] = False,
    rate: Annotated[
        float | None, typer.Option(min=0.001, metavar="N", help="Images a second; as fast as possible by default.")
    ] = None,
    deadline_ms: Annotated[
        int | None, typer.Option(min=1, metavar="MS", help="Time for a verdict, from sending on.")
    ] = None,
    config_file: Settings = CONFIG,
) -> None:
    """Send images as jobs: each one announced, sent and confirmed by RabbitMQ.

    Prints one JSON line for each accepted job. The same file gets the same job id again.

    Example:  patchline publish --line press-3 --category bottle --rate 5 captured/
    """
    from inspection import image_files
    from process import line as surroundings
    from publisher import source
    from publisher.publisher import Publisher

    settings = config.load(config_file)
    settings.category(category)
    if watch and len(paths) != 1:
        raise SetupError("--watch takes exactly one folder")
    with _stoppable() as stop, surroundings.connect(settings, f"publisher {line}") as broker:
        broker.declare(surroundings.plant(settings))
        publisher = Publisher(broker, line, category, stop)
        captures = source.watched(paths[0], stop) if watch else source.at_rate(image_files.find(paths), rate, stop)
        for capture in captures:
            deadline = surroundings.now_ms() + (deadline_ms or settings.publisher.deadline_ms)
            job = publisher.publish(capture, deadline)
            if job is not None:
                _print_line({"job_id": job.job_id, "part_id": job.part_id, "category": category, "deadline": deadline})


@app.command()
def gate(line: Line, config_file: Settings = CONFIG) -> None:
    """Act on the verdicts of one line: prints one JSON line for each part, accept or reject, once per job.

    A part that was announced and has no verdict by its deadline is rejected.

    Example:  patchline gate --line press-3 | your-reject-arm
    """
    from gate import process

    settings = config.load(config_file)
    with _stoppable() as stop:
        process.run(settings, line, lambda action: print(action.model_dump_json(exclude_none=True), flush=True), stop)


@app.command()
def fit(
    category: Category,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder of images of good parts, and of nothing else.")
    ],
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed and images give the same memory bank.")] = 0,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="The kind of device that will serve.")] = "cpu",
    config_file: Settings = CONFIG,
) -> None:
    """Make the memory bank of a category from images of good parts, and calibrate its thresholds.

    Example:  patchline fit --category bottle good-bottles/
    """
    from inspection import backbone
    from tools import fit as tool

    settings = config.load(config_file)
    made = tool.fit(settings, category, folder, seed, backbone.Device.parse(device))
    _tell_bank(settings, made)


Several = Annotated[list[str] | None, typer.Option("--category", metavar="NAME", help="A category; again for more.")]
Dataset = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="With a folder in MVTec layout for each category.")
]
All = Annotated[bool, typer.Option("--all", help="Every category of the configuration.")]


@app.command()
def evaluate(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[FOLDER]", help="One category: with test/good, test/<kind>, ground_truth/<kind>."),
    ] = None,
    category: Several = None,
    all_: All = False,
    dataset: Dataset = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Gets JSON files and sheets of mistakes.")] = Path("out"),
    config_file: Settings = CONFIG,
) -> None:
    """Compare the judgement with labelled images, in the layout of MVTec AD: one category, several, or all.

    With --dataset, what was done before with the same memory bank is not done again.

    Example:  patchline evaluate --category bottle mvtec/bottle

    Example:  patchline evaluate --all --dataset mvtec
    """
    from tools import evaluate as tool
    from tools import reference

    settings = config.load(config_file)
    if dataset is not None:
        reference.precision(settings, _chosen(settings, category, all_), dataset, out)
        return
    if folder is None or category is None or len(category) != 1:
        raise SetupError("name one --category and its folder, or several (or --all) with --dataset")
    tool.show(tool.evaluate(settings, category[0], folder, out))
    print(f"{out / category[0]}.json, {out / category[0]}-mistakes.png")


@app.command()
def import_bank(
    category: Category,
    source: Annotated[Path, typer.Argument(metavar="INDEX", help="nnscorer_search_index.faiss, or its folder.")],
    good: Annotated[Path, typer.Argument(metavar="FOLDER", help="Good images that the index was not made from.")],
    device: Annotated[str, typer.Option(metavar="DEVICE", help="The kind of device that will serve.")] = "cpu",
    config_file: Settings = CONFIG,
) -> None:
    """Take a memory bank from elsewhere, and calibrate the thresholds that it does not have.

    Indices of this project, of the reference application and of amazon-science/patchcore-inspection are understood.

    Example:  patchline import-bank --category bottle old/nnscorer_search_index.faiss good-bottles/
    """
    from inspection import backbone
    from tools import import_bank as tool

    settings = config.load(config_file)
    _tell_bank(settings, tool.import_bank(settings, category, source, good, backbone.Device.parse(device)))


@app.command()
def convert(
    network: Annotated[str, typer.Argument(metavar="NETWORK", help="efficientnet_lite0, wideresnet101, resnet50, ...")],
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A torchvision checkpoint; downloaded without it.")
    ] = None,
    side: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Of the image; with --layer, for one model.")
    ] = None,
    layer: Annotated[str | None, typer.Option(metavar="NAME", help="layer1, layer2 or layer3.")] = None,
    config_file: Settings = CONFIG,
) -> None:
    """Make backbones: ONNX files with their manifests. Needs the extra `convert` (torch).

    Without --side and --layer a ResNet gives the reference's four models: 224, 280 and 320 of layer2, 320 of layer3.
    Says how each judges the golden images of the memory banks that were fitted with a model of its name.

    Example:  patchline convert wideresnet101 --weights wide_resnet101_2-32ee1156.pth
    """
    from inspection import loading
    from tools import convert as tool
    from tools import recipe

    settings = config.load(config_file)
    models = settings.paths.models
    if (side is None) != (layer is None):
        raise SetupError("--side and --layer belong together: one model; without both, the reference's four")
    if network == tool.DEFAULT:
        made = [tool.efficientnet_lite0(models)]
    else:
        wanted = tool.REFERENCE_MODELS if side is None or layer is None else ((side, layer),)
        made = [tool.resnet(models, network, *each, weights) for each in wanted]
    for each in made:
        print(f"{models / each.file}: {each.dim} numbers for each {each.stride} x {each.stride} pixels")
        for sentence in loading.compared(settings, each.name, recipe.CPU):
            print(sentence)


@app.command()
def om(
    model: Annotated[str, typer.Argument(metavar="NAME", help="A model of the folder: wideresnet101_224_layer2.")],
    side: Annotated[int | None, typer.Option(metavar="PIXELS", help="Of the image, where the model takes any.")] = None,
    air: Annotated[Path | None, typer.Option(metavar="FILE", help="Convert this .air of MindSpore instead.")] = None,
    soc_version: Annotated[str, typer.Option(metavar="CHIP", help="As npu-smi names it.")] = "Ascend310",
    config_file: Settings = CONFIG,
) -> None:
    """Make the .om of a model for the Ascend: writes its AIPP file and runs atc, or prints the command for it.

    Where it is made on a machine with the chip, says how it judges the golden images of the memory banks.

    Example:  patchline om wideresnet101_224_layer2
    """
    from inspection import backbone, loading
    from tools import atc as tool

    settings = config.load(config_file)
    print(tool.compile_om(settings.paths.models, model, side, air, soc_version))
    for sentence in loading.compared(settings, model, backbone.Device("ascend", 0)):
        print(sentence)


@app.command()
def topology(
    line: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Also the gate's queue of this line; again for more.")
    ] = None,
    config_file: Settings = CONFIG,
) -> None:
    """Declare the exchanges and queues on RabbitMQ. Workers, publishers and gates do so too, when they start.

    Example:  patchline topology --line press-3 --line press-4
    """
    from broker import topology as queues
    from process import line as surroundings

    settings = config.load(config_file)
    with surroundings.connect(settings, "topology") as broker:
        for each in (surroundings.plant(settings), *(queues.gate(name) for name in line or [])):
            broker.declare(each)
            print("\n".join(queue.name for queue in each.queues))


@app.command()
def schema() -> None:
    """Print the messages as an AsyncAPI document with JSON Schemas, for clients in other languages.

    Example:  patchline schema > docs/asyncapi.json
    """
    from tools import schema as tool

    print(json.dumps(tool.asyncapi(), indent=2))


@app.command()
def doctor(config_file: Settings = CONFIG) -> None:
    """Say what this machine can run: devices, SDK, servers, models and banks; and what to do about the rest.

    Example:  patchline doctor
    """
    from tools import doctor as tool

    if not tool.run(config.load(config_file)):
        raise typer.Exit(1)


@app.command()
def services() -> None:
    """Run private RabbitMQ, Redis and Prometheus servers on loopback until Ctrl-C, and print how to use them.

    Example:  patchline services
    """
    from tools import services as tool

    tool.serve_until_interrupted()


@app.command()
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


@app.command()
def bench(
    category: Several = None,
    all_: All = False,
    dataset: Dataset = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Gets the figures as JSON.")] = Path("out"),
    config_file: Settings = CONFIG,
) -> None:
    """Measure the line against its own limits, in turn and in one run; or, with --dataset, time categories.

    Example:  patchline bench --all --dataset mvtec
    """
    from tools import bench as tool
    from tools import reference

    settings = config.load(config_file)
    if dataset is not None:
        reference.performance(settings, _chosen(settings, category, all_), dataset, out)
    elif category or all_:
        raise SetupError("categories are timed on their images: name the --dataset")
    else:
        tool.run(settings, out / "bench.json")


@contextmanager
def _stoppable() -> Iterator[threading.Event]:
    with shutdown.on_signals() as stop:
        yield stop


def _chosen(settings: config.Config, names: list[str] | None, all_: bool) -> list[str]:
    if bool(names) == all_:
        raise SetupError("name categories with --category, or all of them with --all")
    return names or list(settings.categories)


def _tell_bank(settings: config.Config, made: memory_bank.Manifest) -> None:
    how = "each held out in turn" if made.calibration.method == "leave-one-image-out" else "none of them in the bank"
    print(
        f"{settings.paths.memory_banks / made.category}: {made.patches} patches of {made.dim} numbers\n"
        f"fail from {made.thresholds.fail:.4g}, review from {made.thresholds.review:.4g}: calibrated on "
        f"{made.calibration.images} good images, {how}, for at most "
        f"{made.calibration.false_reject_rate:.1%} of good parts rejected"
    )


def _print_line(record: dict[str, object]) -> None:
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
