"""Memory banks: made, taken over, measured."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Annotated

import typer

from patchline import config
from patchline.cli.options import CONFIG, All, Category, Dataset, Serving, Settings, Several, chosen
from patchline.protocol.errors import SetupError

if typing.TYPE_CHECKING:
    from patchline.inspection import memory_bank


def fit(
    category: Category,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder of images of good parts, and of nothing else.")
    ],
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed and images give the same memory bank.")] = 0,
    device: Serving = "cpu",
    config_file: Settings = CONFIG,
) -> None:
    """Make the memory bank of a category from images of good parts, and calibrate its thresholds.

    Example:  patchline fit --category bottle good-bottles/
    """
    from patchline.banks import fit
    from patchline.devices import backbone

    settings = config.load(config_file)
    made = fit.fit(settings, category, folder, seed, backbone.Device.parse(device))
    _tell_bank(settings, made)


def import_bank(
    category: Category,
    source: Annotated[Path, typer.Argument(metavar="INDEX", help="nnscorer_search_index.faiss, or its folder.")],
    good: Annotated[Path, typer.Argument(metavar="FOLDER", help="Good images that the index was not made from.")],
    device: Serving = "cpu",
    config_file: Settings = CONFIG,
) -> None:
    """Take a memory bank from elsewhere, and calibrate the thresholds that it does not have.

    Indices of this project, of the reference application and of amazon-science/patchcore-inspection are understood.

    Example:  patchline import-bank --category bottle old/nnscorer_search_index.faiss good-bottles/
    """
    from patchline.banks import import_bank
    from patchline.devices import backbone

    settings = config.load(config_file)
    _tell_bank(settings, import_bank.import_bank(settings, category, source, good, backbone.Device.parse(device)))


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
    from patchline.evaluation import evaluate, reference

    settings = config.load(config_file)
    if dataset is not None:
        reference.precision(settings, chosen(settings, category, all_), dataset, out)
        return
    if folder is None or category is None or len(category) != 1:
        raise SetupError("name one --category and its folder, or several (or --all) with --dataset")
    evaluate.print_report(evaluate.evaluate(settings, category[0], folder, out))
    print(f"{out / category[0]}.json, {out / category[0]}-mistakes.png")


def _tell_bank(settings: config.Config, made: memory_bank.BankManifest) -> None:
    how = "each held out in turn" if made.calibration.method == "leave-one-image-out" else "none of them in the bank"
    print(
        f"{settings.paths.memory_banks / made.category}: {made.patches} patches of {made.dim} numbers\n"
        f"fail from {made.thresholds.fail:.4g}, review from {made.thresholds.review:.4g}: calibrated on "
        f"{made.calibration.images} good images, {how}, for at most "
        f"{made.calibration.false_reject_rate:.1%} of good parts rejected"
    )
