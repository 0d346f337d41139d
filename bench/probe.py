"""`python -m bench.probe`: how far each mistake and each precision moves the probe of a model, and the verdict."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench import altered_models, plant, random_network
from patchline import config
from patchline.devices import backbone, loading, model_manifest, probe, probe_check
from patchline.models import convert, quantize
from patchline.protocol.errors import SetupError
from patchline.runtime import logs, terminal

_CALIBRATION_IMAGES = 8  # for int8: enough, because the model is compared with itself
_MODELS = ("efficientnet_lite0", *(f"{side} {layer}" for side, layer in convert.REFERENCE_MODELS))


class Subject(NamedTuple):
    """A model, the side of its images in pixels, and the layer that its category names."""

    models: Path
    name: str
    side: int
    layer: str


def main() -> None:
    """Measure the default backbone and the models of the reference with random weights, and print one table.

    Names after the command measure those models only: `efficientnet_lite0`, or `224 layer2` in quotes.
    """
    logs.configure()
    chosen = sys.argv[1:] or _MODELS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = plant.write_good_images(folder / "good", _CALIBRATION_IMAGES)
        results = {}
        for model in chosen:
            print(f"measuring {model} ...", file=sys.stderr, flush=True)
            measured = _models(_subject(folder / model, model), good)
            results[model] = {what: _measure(backbone) for what, backbone in measured}
    rows = [
        [what, *(f"{results[model][what][0]:.4f}" for model in chosen), *_verdicts(results, what)]
        for what in results[chosen[0]]
    ]
    terminal.table("distances of probes", ("model", *chosen, "verdict"), rows)


def _subject(models: Path, model: str) -> Subject:
    """A model by its name, in a folder of its own."""
    if model == convert.DEFAULT:
        model_manifest.copy_packaged(models, convert.DEFAULT)
        return Subject(models, convert.DEFAULT, 256, "blocks4+10")
    side, layer = model.split()
    network = random_network.Network(int(layer.removeprefix("layer")), int(side))
    random_network.write(models, network)
    return Subject(models, network.name, network.side, network.layer)


def _models(subject: Subject, good: Path) -> Iterator[tuple[str, backbone.Backbone]]:
    folder, name, side, _ = subject
    manifest = model_manifest.read(folder, name)
    path = folder / manifest.file
    for precision in ("f32", "bf16"):
        yield precision, loading.compile_model(path, manifest, side, backbone.CPU, 1, precision)
    yield "f16", altered_models.rounded_to_f16(folder, path, manifest, side)
    yield "int8", _quantized(subject, good)
    right = loading.compile_model(path, manifest, side, backbone.CPU, 1, "f32")
    yield "red and blue swapped", altered_models.swapped_colours(right)
    mean, std = manifest.mean or manifest.inner_mean, manifest.std or manifest.inner_std
    assert mean is not None
    assert std is not None
    for mistake, wrong in probe.normalisation_mistakes(mean, std).items():
        yield (
            f"normalisation: {mistake}",
            altered_models.wrongly_normalised(folder, path, manifest, side, (mean, std), wrong),
        )
    yield "no 3x3 mean", altered_models.without_pooling(folder, path, manifest, side)
    yield "NCHW read as NHWC", altered_models.nchw_read_as_nhwc(right)


def _quantized(subject: Subject, good: Path) -> backbone.Backbone:
    """The model in 8-bit integers, calibrated with images that are less colourful than that of the probe."""
    folder, name, side, layer = subject
    rates = {"false_reject_rate": 0.2, "review_rate": 0.3}  # those that a few images can have
    geometry = {"backbone": name, "layer": layer, "resize": side, "imagesize": side}
    category = config.Category.model_validate({**geometry, **rates, "coreset_ratio": 0.01})
    settings = config.Config(categories={"part": category})
    settings = settings.model_copy(update={"paths": settings.paths.model_copy(update={"models": folder})})
    quantized, _ = quantize.quantize(settings, "part", good)
    return loading.compile_model(folder / quantized.file, quantized, side, backbone.CPU, 1, "int8")


def _measure(model: backbone.Backbone) -> tuple[float, str]:
    """The distance of a model from its probe, and the verdict."""
    distance = model.manifest.probes[model.side].distance(probe_check.measure(model))
    try:
        probe_check.require_match(model, Path("model"))
    except SetupError as error:
        return distance, "refused: " + str(error).split(": ", 2)[2].split(";")[0]
    return distance, f"served, up to {probe_check.TOLERANCES[model.precision]:g}"


def _verdicts(results: dict[str, dict[str, tuple[float, str]]], what: str) -> list[str]:
    """The verdict on a kind of model, each that differs once."""
    return ["; ".join(dict.fromkeys(measured[what][1] for measured in results.values()))]


if __name__ == "__main__":
    main()
