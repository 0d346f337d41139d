"""Measure the probes of models on the CPU, and write them into their manifests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from patchline.devices import backbone, loading, model_manifest, probe, probe_check
from patchline.devices.model_manifest import ModelManifest, Precision

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
    """`Probe.mistakes` of a model: it is compiled again with each wrong normalisation."""
    if manifest.mean is None or manifest.std is None:
        return {}
    mistakes = {}
    for name, (mean, std) in probe.normalisation_mistakes(manifest.mean, manifest.std).items():
        wrong = manifest.model_copy(update={"mean": mean, "std": std})
        model = loading.compile_model(path, wrong, side, backbone.CPU, streams=1, precision="f32")
        mistakes[name] = probe_check.measure(model).channels
    return mistakes
