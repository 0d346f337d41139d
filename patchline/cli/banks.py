"""Subcommands for memory banks: fit, import-bank, evaluate."""

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
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder with images of good parts only.")],
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
    _print_bank(settings, fit.fit(settings, category, folder, seed, backbone.Device.parse(device)))


def import_bank(
    category: Category,
    source: Annotated[Path, typer.Argument(metavar="INDEX", help="nnscorer_search_index.faiss, or its folder.")],
    good: Annotated[Path, typer.Argument(metavar="FOLDER", help="Good images that are not in the index.")],
    device: Serving = "cpu",
    config_file: Settings = CONFIG,
) -> None:
    """Import the index of another PatchCore application, and calibrate the thresholds that it lacks.

    Reads indices of Patchline, of the reference application and of amazon-science/patchcore-inspection.

    Example:  patchline import-bank --category bottle old/nnscorer_search_index.faiss good-bottles/
    """
    from patchline.banks import import_bank
    from patchline.devices import backbone

    settings = config.load(config_file)
    _print_bank(settings, import_bank.import_bank(settings, category, source, good, backbone.Device.parse(device)))


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
    config_file: Settings = CONFIG,
) -> None:
    """Compare the judgement with labelled images: one category, several, or all.

    The folder of a category has the layout of MVTec AD, MVTec AD 2, MVTec LOCO AD, VisA, BTAD or Real-IAD.

    With --dataset, categories that were evaluated with the same memory bank are skipped.

    Example:  patchline evaluate --category bottle mvtec/bottle

    Example:  patchline evaluate --all --dataset mvtec
    """
    from patchline.evaluation import evaluate, reference, report

    settings = config.load(config_file)
    if dataset is not None:
        reference.precision(settings, chosen(settings, category, all_), dataset, out)
        return
    if folder is None or category is None or len(category) != 1:
        raise SetupError("name one --category and its folder, or several (or --all) with --dataset")
    report.print_report(evaluate.evaluate(settings, category[0], folder, out))
    print(f"{out / category[0]}.html, {out / category[0]}.json, {out / category[0]}-mistakes.png")


def _print_bank(settings: config.Config, bank: memory_bank.BankManifest) -> None:
    from patchline.banks import report

    print(f"{settings.paths.memory_banks / bank.category}: {bank.patches} patches of {bank.dim} numbers")
    print(report.describe(bank))
