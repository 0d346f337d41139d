"""Measure the probes of models on the CPU, and write them into their manifests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline.devices import backbone, loading, model_manifest, probe, probe_check
from patchline.devices.model_manifest import ModelManifest, Precision
from patchline.devices.probe import Channels

_USUAL_SIDES = range(64, 513, 32)


def add(models: Path, name: str, sides: Sequence[int] | None) -> ModelManifest:
    """Add the probes that the manifest of a model lacks. What it has must match.

    Args:
        models: folder of the models; a packaged model is copied into it.
        name: of the model.
        sides: of the images in pixels. None takes the one side of the model, or the usual ones.

    Raises:
        SetupError: the model is missing or damaged, does not take a side, or does not match its manifest.
    """
    manifest = model_manifest.read(models, name)
    sides = sides or usual_sides(manifest)
    for side in sides:
        loading.require_side(manifest, side)
    model_manifest.copy_packaged(models, name)
    path = loading.require_intact(models, manifest)
    precision: Precision = "int8" if manifest.precision == "int8" else "f32"
    for side in sides:
        model = loading.compile_model(path, manifest, side, backbone.CPU, streams=1, precision=precision)
        if side in manifest.probes:
            probe_check.require_match(model, path)
        elif manifest.rim is not None:
            probe_check.require_rim(model, path, manifest.rim)
    manifest = with_probes(path, manifest, [side for side in sides if side not in manifest.probes])
    model_manifest.write(models, manifest)
    return manifest


def usual_sides(manifest: ModelManifest) -> list[int]:
    """The one side of a model, or multiples of 32 from 64 to 512 pixels."""
    if manifest.side is not None:
        return [manifest.side]
    return [side for side in _USUAL_SIDES if side % manifest.side_multiple_of == 0]


def with_probes(path: Path, manifest: ModelManifest, sides: Iterable[int]) -> ModelManifest:
    """The manifest with a measured rim, and with measured probes for more sides."""
    precision: Precision = "int8" if manifest.precision == "int8" else "f32"
    probes, rim = dict(manifest.probes), manifest.rim
    rim_side = manifest.side or 8 * manifest.side_multiple_of  # where earlier builds compare it
    for side in sides:
        model = loading.compile_model(path, manifest, side, backbone.CPU, streams=1, precision=precision)
        measured = probe_check.measure(model)
        if side == rim_side:
            rim = rim or probe_check.measure_rim(model)
        probes[side] = measured.model_copy(update={"mistakes": _mistakes(path, manifest, side)})
    return manifest.model_copy(update={"rim": rim, "probes": dict(sorted(probes.items()))})


def _mistakes(path: Path, manifest: ModelManifest, side: int) -> dict[probe.Normalisation, tuple[float, ...]]:
    """`Probe.mistakes` of a model: its features with each wrong normalisation."""
    mean, std = manifest.mean or manifest.inner_mean, manifest.std or manifest.inner_std
    if mean is None or std is None:
        return {}
    wrong = probe.normalisation_mistakes(mean, std)
    measure = _wrongly_normalised if manifest.input == "float32_nchw" else _wrongly_normalised_inside
    features = measure(path, manifest, side, list(wrong.values()))
    grid = manifest.grid(side)
    return {name: probe.measure(rows, grid).channels for name, rows in zip(wrong, features, strict=True)}


def _wrongly_normalised(
    path: Path, manifest: ModelManifest, side: int, wrong: list[tuple[Channels, Channels]]
) -> Iterator[NDArray[np.float32]]:
    """The features of a model that is compiled again with each wrong mean and standard deviation."""
    for mean, std in wrong:
        changed = manifest.model_copy(update={"mean": mean, "std": std})
        yield loading.compile_model(path, changed, side, backbone.CPU, 1, "f32").extract(probe.image(side))[0]


def _wrongly_normalised_inside(
    path: Path, manifest: ModelManifest, side: int, wrong: list[tuple[Channels, Channels]]
) -> Iterator[NDArray[np.float32]]:
    """The features of a model that normalises by itself, for pixels that it normalises to the wrong numbers."""
    from patchline.devices import openvino_backbone

    normalised = np.concatenate([(probe.image(side) - np.array(mean)) / np.array(std) for mean, std in wrong])
    pixels = normalised * np.array(manifest.inner_std) + np.array(manifest.inner_mean)
    return iter(openvino_backbone.extract_floats(path, pixels.astype(np.float32)))
