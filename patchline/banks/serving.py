"""Everything a worker needs to serve its categories, loaded once, and refused when it does not fit together."""

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
    """An inspector for each named category; categories with the same backbone and size share one.

    Raises:
        SetupError: a model or bank is missing, damaged or does not match, or its golden images score otherwise here.
    """
    loaded: dict[tuple[str, int, Precision | None], backbone.Backbone] = {}
    inspectors = {}
    for name in names:
        category = settings.category(name)
        folder = settings.paths.memory_banks / name
        bank = store.load(folder)
        key = (category.backbone, category.imagesize, category.precision)
        if key not in loaded:
            model, side, precision = key
            loaded[key] = loading.load(settings.paths.models, model, side, device, streams, precision, on_failure)
        check_match(name, category, loaded[key].manifest, bank.manifest)
        inspectors[name] = Inspector(category, settings.images, loaded[key], bank.with_pruning())
        golden.require_match(inspectors[name], golden.read(folder), category.golden_tolerance)
    return inspectors


def compare_golden_images(settings: config.Config, model: str, device: backbone.Device) -> list[str]:
    """How a new model judges the golden images of every bank that was fitted with a model of its name.

    Returns:
        A sentence for each such category; why not, where it cannot be said.
    """
    sentences = []
    for name, category in settings.categories.items():
        folder = settings.paths.memory_banks / name
        if category.backbone != model or not folder.is_dir():
            continue
        try:
            side, precision = category.imagesize, category.precision
            with contextlib.closing(loading.load(settings.paths.models, model, side, device, 1, precision)) as loaded:
                inspect = Inspector(category, settings.images, loaded, store.load(folder))
                sentences.append(f"{name}: {golden.compare(inspect, golden.read(folder))}")
        except SetupError as error:
            sentences.append(f"{name}: {error}")
    return sentences


def check_match(name: str, category: config.Category, model: ModelManifest, bank: memory_bank.BankManifest) -> None:
    """Refuse a bank that was fitted with another recipe or another network than the one that would serve it.

    Raises:
        SetupError: with every difference.
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
    faults = [
        f"{key} was {getattr(bank, key)} and is {value}"
        for key, value in expected.items()
        if getattr(bank, key) != value
    ]
    if faults:
        again = f"fit it again with: patchline fit --category {name} FOLDER"
        raise SetupError(f"memory bank of {name}: {'; '.join(faults)}; {again}")
