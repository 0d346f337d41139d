"""Subcommands for memory banks: fit, import-bank, evaluate."""

from __future__ import annotations

import typing
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from patchline import config
from patchline.cli.options import CONFIG, All, Category, Dataset, Serving, Settings, Several, chosen
from patchline.protocol.errors import SetupError

if typing.TYPE_CHECKING:
    from patchline.banks.review import Reviewed
    from patchline.inspection import memory_bank

Accept = Annotated[
    list[str] | None,
    typer.Option(metavar="IMAGE", help="Use this image although it stands out; its path below FOLDER. Again for more."),
]
LeaveOut = Annotated[
    list[str] | None,
    typer.Option(metavar="IMAGE", help="Do not use this image; its path below FOLDER. Again for more."),
]
ReviewFolder = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="Where the contact sheet of images that stand out goes.")
]
_LISTED = 24  # images of a review, as many as on its sheet


def fit(
    category: Category,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder with images of good parts only.")],
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed and images give the same memory bank.")] = 0,
    trial: Annotated[
        bool, typer.Option("--trial", help="From 10 images: the bank answers review, and never fail.")
    ] = False,
    device: Serving = "cpu",
    only_review: Annotated[
        bool, typer.Option("--review", help="Draw the images that the others judge worst, and write no memory bank.")
    ] = False,
    accept: Accept = None,
    leave_out: LeaveOut = None,
    out: ReviewFolder = Path("out"),
    config_file: Settings = CONFIG,
) -> None:
    """Make the memory bank of a category from images of good parts, and calibrate its thresholds.

    Images that stand out from the others are named and drawn on a contact sheet, no bank is written, and the exit code
    is 1. Look at them, then name each of them with --accept or --leave-out.

    Example:  patchline fit --category bottle good-bottles/

    Example:  patchline fit --category bottle good-bottles/ --leave-out 0017.png --accept 0042.png
    """
    from patchline.banks import fit
    from patchline.banks.choices import Choices
    from patchline.devices import backbone

    settings = config.load(config_file)
    choices = Choices(accept or (), leave_out or (), out)
    kind = backbone.Device.parse(device)
    if only_review:
        _print_review(*fit.review_images(settings, category, folder, seed, kind, choices, trial))
    else:
        _print_bank(settings, fit.fit(settings, category, folder, seed, kind, choices, trial))


def import_bank(
    category: Category,
    source: Annotated[Path, typer.Argument(metavar="INDEX", help="nnscorer_search_index.faiss, or its folder.")],
    good: Annotated[Path, typer.Argument(metavar="FOLDER", help="Good images that are not in the index.")],
    device: Serving = "cpu",
    accept: Accept = None,
    leave_out: LeaveOut = None,
    out: ReviewFolder = Path("out"),
    config_file: Settings = CONFIG,
) -> None:
    """Import the index of another PatchCore application, and calibrate the thresholds that it lacks.

    Reads indices of Patchline, of the reference application and of amazon-science/patchcore-inspection. Good images
    that stand out are refused as by `fit`.

    Example:  patchline import-bank --category bottle old/nnscorer_search_index.faiss good-bottles/
    """
    from patchline.banks import import_bank
    from patchline.banks.choices import Choices
    from patchline.devices import backbone

    settings = config.load(config_file)
    choices = Choices(accept or (), leave_out or (), out)
    bank = import_bank.import_bank(settings, category, source, good, backbone.Device.parse(device), choices)
    _print_bank(settings, bank)


def evaluate(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]", help="One category: with test/good, test/<kind>, ground_truth/<kind>, or as below."
        ),
    ] = None,
    category: Several = None,
    all_: All = False,
    dataset: Dataset = None,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the reports (HTML and JSON) and the sheets of mistakes go.")
    ] = Path("out"),
    seeds: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Compare N memory banks from the same good images: how much of a figure is luck."
        ),
    ] = 1,
    device: Serving = "cpu",
    config_file: Settings = CONFIG,
) -> None:
    """Compare the judgement with labelled images: one category, several, or all.

    The folder of a category has the layout of MVTec AD, MVTec AD 2, MVTec LOCO AD, VisA, BTAD or Real-IAD.

    With --dataset, categories that were evaluated with the same memory bank, model, device and precision are skipped.

    Example:  patchline evaluate --category bottle mvtec/bottle

    Example:  patchline evaluate --category bottle mvtec/bottle --seeds 5

    Example:  patchline evaluate --all --dataset mvtec --device ascend:0
    """
    from patchline.banks import serving
    from patchline.devices import backbone
    from patchline.evaluation import evaluate, reference, report

    settings = config.load(config_file)
    if dataset is not None and seeds > 1:
        raise SetupError("--seeds compares memory banks of one category: name one --category and its folder")
    with closing(serving.Loader(settings, backbone.Device.parse(device), streams=1)) as loader:
        if dataset is not None:
            reference.precision(loader, chosen(settings, category, all_), dataset, out)
            return
        if folder is None or category is None or len(category) != 1:
            raise SetupError("name one --category and its folder, or several (or --all) with --dataset")
        report.print_report(evaluate.evaluate(loader, category[0], folder, out, seeds))
    print(f"{out / category[0]}.html, {out / category[0]}.json, {out / category[0]}-mistakes.png")


def calibrate(
    category: Category,
    defects: Annotated[
        Path | None, typer.Argument(metavar="[DEFECTS]", help="A folder with images of parts with a defect.")
    ] = None,
    false_reject_rate: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of good parts that may fail; that of the configuration.")
    ] = None,
    review_rate: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of good parts that may be reviewed or fail; likewise.")
    ] = None,
    max_missed: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of defects that may pass. Needs DEFECTS.")
    ] = None,
    cost_missed: Annotated[float | None, typer.Option(metavar="COST", help="Of a defect that passes.")] = None,
    cost_rejected: Annotated[float | None, typer.Option(metavar="COST", help="Of a flagged good part.")] = None,
    defect_share: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Of the parts of the line; needed with costs.")
    ] = None,
    device: Serving = "cpu",
    config_file: Settings = CONFIG,
) -> None:
    """Set new thresholds without a fit: for other rates, or from images of defects.

    With DEFECTS, parts are flagged as --max-missed or the costs demand. Workers use the thresholds after a restart, or
    once the bank is published and activated (`patchline banks`).

    Example:  patchline calibrate --category bottle --false-reject-rate 0.02 --review-rate 0.1

    Example:  patchline calibrate --category bottle --max-missed 0.05 bottles-with-defects/
    """
    from patchline.banks import calibrate, report
    from patchline.devices import backbone

    settings = config.load(config_file)
    rates = {"false_reject_rate": false_reject_rate, "review_rate": review_rate}
    changed = {name: rate for name, rate in rates.items() if rate is not None}
    target = calibrate.target_of(settings, category, changed)
    defect_target = calibrate.parse_defect_target(max_missed, cost_missed, cost_rejected, defect_share)
    if (defects is None) != (defect_target is None):
        raise SetupError("a folder of defects, and --max-missed or the costs of mistakes, belong together")
    if defects is None or defect_target is None:
        before, after = calibrate.calibrate(settings, category, target)
    else:
        before, after = calibrate.calibrate_on_defects(
            settings, category, target, defect_target, defects, backbone.Device.parse(device)
        )
    print(f"{settings.paths.memory_banks / category}: {report.describe_change(before, after)}")
    if changed:
        print(f"To keep these rates at the next fit, set them in {config_file}: {calibrate.as_keys(changed)}")


def _print_bank(settings: config.Config, bank: memory_bank.BankManifest) -> None:
    from patchline.banks import report

    print(f"{settings.paths.memory_banks / bank.category}: {bank.patches} patches of {bank.dim} numbers")
    print(report.describe(bank))
    for text, names in (("accepted outliers", bank.accepted_outliers), ("left out", bank.left_out)):
        if names:
            print(f"{text}: {', '.join(names)}")


def _print_review(images: list[Reviewed], sheet: Path) -> None:
    from patchline.runtime import terminal

    rows = [(image.name, image.score, image.p_value, image.verdict) for image in images[:_LISTED]]
    columns = ("image", "score", "p-value", "")
    terminal.table("scores against the other images; 1 is the highest that does not stand out", columns, rows)
    print(f"{sheet}: these images, with the heat maps that the others give them; no memory bank was written")
