"""Quantise a backbone to 8-bit integers with NNCF. The only file that uses NNCF."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.banks.recipe import Recipe
from patchline.devices import backbone, loading, model_manifest, openvino_backbone
from patchline.devices.model_manifest import ModelManifest
from patchline.models import probes
from patchline.protocol.errors import SetupError
from patchline.runtime import terminal

_CALIBRATION_IMAGES = 300  # more images hardly change the ranges
_COMPARED_IMAGES = 20
_Item = TypeVar("_Item")


def quantize(settings: config.Config, name: str, folder: Path) -> tuple[ModelManifest, float]:
    """Write `<backbone>_<category>_int8`, with weights and activations of 8 bits. Good images give their ranges.

    Args:
        settings: the configuration.
        name: of the category, whose recipe gives the backbone and the size and preprocessing of the images.
        folder: of good images; subfolders are searched too.

    Returns:
        The manifest, and the mean absolute difference between the features of the two backbones, relative to the mean
        absolute feature.

    Raises:
        SetupError: the extra `quantize` is not installed, the backbone is quantised already, there are too few images,
            an image cannot be decoded, or the model cannot be used.
    """
    nncf = _import_nncf()
    with Recipe.open(settings, name, folder, backbone.CPU) as recipe, terminal.progress() as progress:
        base, models, side = recipe.model.manifest, settings.paths.models, recipe.category.imagesize
        if base.precision == "int8":
            raise SetupError(f"backbone {base.name} is quantised already; name another for category {name}")
        good = recipe.good.subset(_evenly_spaced(range(len(recipe.paths)), _CALIBRATION_IMAGES))
        images = list(replace(recipe, good=good).images(progress, "images"))
        graph = openvino_backbone.read_graph(model_manifest.locate(models, base.name) / base.file, base, side)
        models.mkdir(parents=True, exist_ok=True)
        path = models / f"{base.name}_{name}_int8.xml"
        in_float = nncf.IgnoredScope(types=["AvgPool"])  # rounding the 3x3 mean would erase channels with small values
        quantized = nncf.quantize(graph, nncf.Dataset(images), subset_size=len(images), ignored_scope=in_float)
        openvino_backbone.save_graph(quantized, path)
        manifest = _write_manifest(path, base, side, len(images))
        compiled = loading.load(models, manifest.name, side, backbone.CPU, streams=1)
        return manifest, _relative_difference(recipe.model, compiled, _evenly_spaced(images, _COMPARED_IMAGES))


def _write_manifest(path: Path, base: ModelManifest, side: int, images: int) -> ModelManifest:
    """Write the manifest: that of the base model, with normalisation inside and for images of one size."""
    changes: dict[str, Any] = {
        "name": path.stem,
        "file": path.name,
        "sha256": model_manifest.digest(path),
        "side": side,
        "input": "uint8_nhwc",
        "mean": None,
        "std": None,
        "inner_mean": None,
        "inner_std": None,
        "precision": "int8",
        "om": None,
        "rim": None,
        "probes": {},
        "made_by": f"patchline quantize of {base.name}, nncf {metadata.version('nncf')}, {images} images",
    }
    manifest = base.model_copy(update=changes)
    manifest = probes.with_probes(path, manifest, [side])
    model_manifest.write(path.parent, manifest)
    return manifest


def _relative_difference(
    base: backbone.Backbone, quantized: backbone.Backbone, images: Sequence[NDArray[np.uint8]]
) -> float:
    pairs = [(base.extract(image), quantized.extract(image)) for image in images]
    return float(np.mean([np.abs(exact - rounded).mean() / np.abs(exact).mean() for exact, rounded in pairs]))


def _evenly_spaced(items: Sequence[_Item], max_count: int) -> list[_Item]:
    indices = np.unique(np.linspace(0, len(items) - 1, min(max_count, len(items)), dtype=int))
    return [items[index] for index in indices]


def _import_nncf() -> Any:
    os.environ.setdefault("NNCF_CI", "1")  # NNCF sends telemetry by default
    try:
        import nncf
    except ImportError as error:
        raise SetupError(f"{error.name} is not installed; quantize needs: pip install 'patchline[quantize]'") from error
    nncf.set_log_level(logging.ERROR)
    return nncf
