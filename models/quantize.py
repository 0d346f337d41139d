"""A backbone in 8-bit integers, calibrated with a category's good images by NNCF, which only this file imports."""

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
from patchline.banks import recipe
from patchline.devices import backbone, loading, model_manifest, openvino_backbone
from patchline.devices.model_manifest import ModelManifest
from patchline.protocol.errors import SetupError
from patchline.runtime import terminal

_CALIBRATING = 300  # more images change no range worth mentioning
_COMPARED = 20
_Item = TypeVar("_Item")


def quantize(settings: config.Config, name: str, folder: Path) -> tuple[ModelManifest, float]:
    """Write `<backbone>_<category>_int8`: weights and activations of 8 bits, ranges from the good images.

    Args:
        settings: the configuration.
        name: of the category, which says the backbone, the size of the images and how they are prepared.
        folder: of good images, searched with its subfolders.

    Returns:
        The manifest, and how far its features are from those of the backbone that it was made of: the mean absolute
        difference in shares of the mean absolute feature.

    Raises:
        SetupError: the extra `quantize` is not installed, the backbone is quantised already, or as for `fit`.
    """
    nncf = _nncf()
    with recipe.of(settings, name, folder, backbone.CPU) as own, terminal.progress() as bars:
        base, models, side = own.model.manifest, settings.paths.models, own.category.imagesize
        if base.precision == "int8":
            raise SetupError(f"backbone {base.name} is quantised already; name another for category {name}")
        images = list(replace(own, paths=_spread(own.paths, _CALIBRATING)).prepared(bars, "images"))
        graph = openvino_backbone.read_graph(model_manifest.locate(models, base.name) / base.file, base, side)
        models.mkdir(parents=True, exist_ok=True)
        path = models / f"{base.name}_{name}_int8.xml"
        in_float = nncf.IgnoredScope(types=["AvgPool"])  # the 3x3 mean: rounded there, channels with small values go
        quantized = nncf.quantize(graph, nncf.Dataset(images), subset_size=len(images), ignored_scope=in_float)
        openvino_backbone.save_graph(quantized, path)
        made = _keep(path, base, side, len(images))
        compiled = loading.load(models, made.name, side, backbone.CPU, streams=1)
        return made, _difference(own.model, compiled, _spread(images, _COMPARED))


def _keep(path: Path, base: ModelManifest, side: int, images: int) -> ModelManifest:
    """Its manifest: as that of the backbone, with normalisation inside and for images of one size."""
    by = f"patchline quantize of {base.name}, nncf {metadata.version('nncf')}, {images} images"
    own: dict[str, Any] = {"name": path.stem, "file": path.name, "sha256": model_manifest.digest(path), "side": side}
    inside: dict[str, Any] = {"input": "uint8_nhwc", "mean": None, "std": None, "precision": "int8", "om": None}
    manifest = base.model_copy(update={**own, **inside, "made_by": by})
    compiled = loading.compile_model(path, manifest, side, backbone.CPU, streams=1, precision="int8")
    manifest = manifest.model_copy(update={"rim": loading.measure_rim(compiled)})
    model_manifest.write(path.parent, manifest)
    return manifest


def _difference(exact: backbone.Backbone, quantized: backbone.Backbone, images: Sequence[NDArray[np.uint8]]) -> float:
    pairs = [(exact.extract(image), quantized.extract(image)) for image in images]
    return float(np.mean([np.abs(one - other).mean() / np.abs(one).mean() for one, other in pairs]))


def _spread(whole: Sequence[_Item], most: int) -> list[_Item]:
    """At most so many, evenly from the whole."""
    return [whole[row] for row in np.unique(np.linspace(0, len(whole) - 1, min(most, len(whole)), dtype=int))]


def _nncf() -> Any:
    os.environ.setdefault("NNCF_CI", "1")  # or it would tell its makers what it does, over the network
    try:
        import nncf
    except ImportError as error:
        raise SetupError(f"{error.name} is not installed; quantize needs: pip install '.[quantize]'") from error
    nncf.set_log_level(logging.ERROR)
    return nncf
