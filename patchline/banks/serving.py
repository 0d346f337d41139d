"""Load the inspectors of a worker, and check that models, memory banks and configuration match."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from patchline import config
from patchline.banks import golden, store
from patchline.devices import backbone, loading
from patchline.devices.model_manifest import ModelManifest, Precision
from patchline.inspection import memory_bank
from patchline.inspection.inspector import Inspector
from patchline.protocol.errors import SetupError


def load(
    settings: config.Config,
    names: list[str],
    device: backbone.Device,
    streams: int,
    on_failure: Callable[[], None] = lambda: None,
) -> dict[str, Inspector]:
    """Load an inspector for each category. Categories with the same backbone, size and precision share a backbone.

    Args:
        settings: the configuration.
        names: of the categories.
        device: the device of the backbones.
        streams: the number of threads that call an inspector at the same time.
        on_failure: called whenever the device fails.

    Raises:
        SetupError: a model or bank is missing, damaged or does not match, or golden images have other scores here.
    """
    backbones: dict[tuple[str, int, Precision | None], backbone.Backbone] = {}
    inspectors = {}
    for name in names:
        category = settings.category(name)
        folder = settings.paths.memory_banks / name
        bank = store.load(folder)
        key = (category.backbone, category.imagesize, category.precision)
        if key not in backbones:
            model, side, precision = key
            backbones[key] = loading.load(settings.paths.models, model, side, device, streams, precision, on_failure)
        check_match(name, category, backbones[key].manifest, bank.manifest)
        inspectors[name] = Inspector(category, settings.images, backbones[key], bank.with_pruning())
        golden.require_match(inspectors[name], golden.read(folder), category.golden_tolerance)
    return inspectors


def compare_golden_images(settings: config.Config, model: str, device: backbone.Device) -> list[str]:
    """Compare the scores of a new model with those at fit time, for every bank fitted with a model of that name.

    Returns:
        A sentence for each such category: the comparison, or the reason why it failed.
    """
    sentences = []
    for name, category in settings.categories.items():
        folder = settings.paths.memory_banks / name
        if category.backbone != model or not folder.is_dir():
            continue
        try:
            side, precision = category.imagesize, category.precision
            with contextlib.closing(loading.load(settings.paths.models, model, side, device, 1, precision)) as loaded:
                inspector = Inspector(category, settings.images, loaded, store.load(folder))
                sentences.append(f"{name}: {golden.compare(inspector, golden.read(folder))}")
        except SetupError as error:
            sentences.append(f"{name}: {error}")
    return sentences


def check_match(name: str, category: config.Category, model: ModelManifest, bank: memory_bank.BankManifest) -> None:
    """Check that a bank was fitted with the recipe and the model that will serve it.

    Raises:
        SetupError: it was not; the text names every difference.
    """
    expected = {
        "category": name,
        "backbone": category.backbone,
        "backbone_sha256": model.sha256,
        "layer": category.layer,
        "resize": category.resize,
        "imagesize": category.imagesize,
        "dim": model.dim,
        "score": category.score,
    }
    if model.layer != category.layer:
        raise SetupError(f"category {name}: layer is {category.layer}, but backbone {model.name} gives {model.layer}")
    differences = [
        f"{key} was {getattr(bank, key)} and is {value}"
        for key, value in expected.items()
        if getattr(bank, key) != value
    ]
    if differences:
        advice = f"fit it again with: patchline fit --category {name} FOLDER"
        raise SetupError(f"memory bank of {name}: {'; '.join(differences)}; {advice}")
