"""`python -m bench.probe`: how far each mistake and each precision moves the probe of a model, and the verdict."""

from __future__ import annotations

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
_LITE_MEAN, _LITE_STD = (126.99, 126.99, 126.99), (128.01, 128.01, 128.01)  # of efficientnet_lite0, inside its model


class Subject(NamedTuple):
    """A model, the side of its images in pixels, and the layer that its category names."""

    models: Path
    name: str
    side: int
    layer: str


def main() -> None:
    """Measure the default backbone and a WideResNet with random weights, and print a table of each."""
    logs.configure()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        good = plant.write_good_images(folder / "good", _CALIBRATION_IMAGES)
        network = random_network.LAYER2
        random_network.write(folder, network)
        model_manifest.copy_packaged(folder, convert.DEFAULT)
        subjects = [
            Subject(folder, convert.DEFAULT, 256, "blocks4+10"),
            Subject(folder, network.name, network.side, network.layer),
        ]
        for subject in subjects:
            rows = [_row(what, model) for what, model in _models(subject, good)]
            columns = ("model", "distance", "tolerance", "verdict")
            terminal.table(f"{subject.name}, {subject.side} x {subject.side}", columns, rows)


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
    mean, std = manifest.mean or _LITE_MEAN, manifest.std or _LITE_STD
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
    category = config.Category(backbone=name, layer=layer, resize=side, imagesize=side, coreset_ratio=0.01)
    settings = config.Config(categories={"part": category})
    settings = settings.model_copy(update={"paths": settings.paths.model_copy(update={"models": folder})})
    quantized, _ = quantize.quantize(settings, "part", good)
    return loading.compile_model(folder / quantized.file, quantized, side, backbone.CPU, 1, "int8")


def _row(what: str, model: backbone.Backbone) -> list[object]:
    distance = model.manifest.probes[model.side].distance(probe_check.measure(model))
    try:
        probe_check.require_match(model, Path("model"))
        verdict = "served"
    except SetupError as error:
        verdict = "refused: " + str(error).split(": ", 2)[2].split(";")[0]
    return [what, f"{distance:.4f}", f"{probe_check.TOLERANCES[model.precision]:g}", verdict]


if __name__ == "__main__":
    main()
