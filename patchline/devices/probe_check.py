"""Check at its start that a backbone computes what its manifest says, and name the likely mistake if it does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from patchline.devices import probe
from patchline.devices.backbone import Backbone
from patchline.devices.model_manifest import Precision
from patchline.devices.probe import Normalisation, Probe
from patchline.protocol.errors import MismatchError, SetupError

_log = structlog.get_logger(__name__)
# The relative L2 distance that rounding may cause. docs/ascend.md has the measured ones.
TOLERANCES: dict[Precision, float] = {"f32": 0.002, "bf16": 0.08, "f16": 0.02, "int8": 0.05}
RIM_TOLERANCE = 0.1  # a precision changes the rim by far less, a missing 3x3 mean by 5/9
_GREY = 90
_NORMALISATIONS: dict[Normalisation, str] = {
    "none": "the image is not normalised",
    "only 1/255": "the image is divided by 255, but not normalised",
    "twice": "the image is normalised twice",
    "no mean": "the mean is not subtracted from the image",
    "no std": "the image is not divided by the standard deviation",
    "mean and std of 0 to 1": "mean and standard deviation are those of pixels from 0 to 1",
}


def require_match(backbone: Backbone, path: Path) -> None:
    """Compare the probe of a backbone with that of its manifest, or its rim if the manifest has no probe for this side.

    Args:
        backbone: the compiled model.
        path: of its model file, for messages.

    Raises:
        MismatchError: they differ by more than the precision explains.
    """
    manifest, side = backbone.manifest, backbone.side
    expected = manifest.probes.get(side)
    if expected is None:
        command = f"patchline probe {manifest.name} --side {side}"
        if manifest.rim is None:
            raise SetupError(f"{manifest.name}.json: has no probe for {side} x {side} images; add it with: {command}")
        _log.warning("model checked by its rim only, for lack of a probe", model=manifest.name, side=side, add=command)
        require_rim(backbone, path, manifest.rim)
        return
    features, tolerance = backbone.extract(probe.image(side))[0], TOLERANCES[backbone.precision]
    distance = expected.distance(probe.measure(features, backbone.grid))
    if not distance <= tolerance:
        raise MismatchError(
            f"{path}: the features of the probe's image differ by {distance:.0%} from those in {manifest.name}.json, "
            f"and {backbone.precision} explains {tolerance:.1%}: {_likely_mistake(backbone, expected, features)}; "
            f"{'quantize it on the machine that serves' if backbone.precision == 'int8' else 'convert the model again'}"
        )


def measure(backbone: Backbone) -> Probe:
    """The probe of a backbone."""
    return probe.measure(backbone.extract(probe.image(backbone.side))[0], backbone.grid)


def measure_rim(backbone: Backbone) -> float:
    """The mean absolute feature at the corner of a constant grey image, relative to its centre."""
    rows, columns = backbone.grid
    grey = np.full((1, backbone.side, backbone.side, 3), _GREY, np.uint8)
    strength = np.abs(backbone.extract(grey)[0]).mean(axis=1).reshape(rows, columns)
    return float(strength[0, 0] / strength[rows // 2, columns // 2])


def require_rim(backbone: Backbone, path: Path, expected: float) -> None:
    """Compare the rim of a backbone with that of its manifest.

    Raises:
        MismatchError: they differ by more than a tenth.
    """
    rim = measure_rim(backbone)
    if not abs(rim / expected - 1) <= RIM_TOLERANCE:
        raise MismatchError(
            f"{path}: the corner of a constant image is {rim:.3f} of its centre, but {expected:.3f} by its manifest: "
            "the 3x3 mean or the normalisation is missing or done twice; convert the model again"
        )


def _likely_mistake(backbone: Backbone, expected: Probe, features: NDArray[np.float32]) -> str:
    """The mistake that explains more than half of the distance, or a hint if none does."""
    if not np.isfinite(features).all():
        return "they are not finite, as after a missing normalisation in f16"
    measured = probe.measure(features, backbone.grid)
    distances = {
        **_distances_after_mending(backbone, expected, features),
        **{
            text: probe.relative_distance(expected.mistakes[name], measured.channels)
            for name, text in _NORMALISATIONS.items()
            if name in expected.mistakes
        },
    }
    mistake = min(distances, key=distances.__getitem__)
    if distances[mistake] < expected.distance(measured) / 2:
        return f"probably {mistake}"
    if backbone.precision == "int8":
        return "its weights differ, or either this CPU or the one that quantised it has no VNNI"
    return "the normalisation, the weights or another step differ"


def _distances_after_mending(backbone: Backbone, expected: Probe, features: NDArray[np.float32]) -> dict[str, float]:
    """The distances that remain after each mistake that can be mended from outside was mended."""
    rows, columns = backbone.grid
    swapped = np.ascontiguousarray(probe.image(backbone.side)[..., ::-1])
    mended = {
        "red and blue are swapped": backbone.extract(swapped)[0],
        "its output is NCHW and is read as NHWC": features.reshape(features.shape[::-1]).T,
        "the 3x3 mean is missing": _mean_3x3(features.reshape(rows, columns, -1)).reshape(features.shape),
    }
    return {text: expected.distance(probe.measure(fixed, backbone.grid)) for text, fixed in mended.items()}


def _mean_3x3(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean over 3x3 neighbours with zero padding, float32 [rows, columns, dim]."""
    rows, columns, _ = features.shape
    padded = np.pad(features, ((1, 1), (1, 1), (0, 0)))
    shifted = [padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    mean: NDArray[np.float32] = np.mean(shifted, axis=0, dtype=np.float32)
    return mean
