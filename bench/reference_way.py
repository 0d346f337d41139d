"""The way of the reference application: one image after another in one loop, without a broker.

Normalised in float64, through the network in float32, then faiss's IndexFlatL2, each with all cores.
`python -m bench.reference_way config.yaml CATEGORY` prints how many JPEG images it scores in a second.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np
import openvino

from bench.plant import pictures
from patchline import config
from patchline.banks import store
from patchline.devices import model_manifest
from patchline.inspection import score
from patchline.inspection.search import exact_search

_FIRST, _MEASURED = 5, 40  # images: the first ones compile and allocate


class ReferenceWay:
    """Scores encoded images of one category."""

    def __init__(self, settings: config.Config, category: str) -> None:
        self._recipe = settings.category(category)
        self._index = exact_search.flat_index(store.load(settings.paths.memory_banks / category).search.features)
        self._manifest = model_manifest.read(settings.paths.models, self._recipe.backbone)
        model = self._file(settings.paths.models)
        self._network = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def score(self, image: bytes) -> float:
        """The mean of the ten largest distances."""
        pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        resize, side = self._recipe.resize, self._recipe.imagesize
        edge = (resize - side) // 2
        square = cv2.resize(pixels, (resize, resize), interpolation=cv2.INTER_AREA)
        scaled = square[edge : edge + side, edge : edge + side] / 255.0
        mean, std = (np.array(each, np.float64) / 255 for each in (self._manifest.mean, self._manifest.std))
        prepared = ((scaled - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
        patches = self._network([prepared])[0][0]
        distances, _ = self._index.search(patches, 1)
        return score.image_scores(distances[:, 0]).topk10

    def _file(self, models: Path) -> Path:
        return models / self._manifest.file


def main() -> None:
    """Measure, and print images a second: for `apart`."""
    file, category = sys.argv[1:]
    way = ReferenceWay(config.load(Path(file)), category)
    images = pictures(_FIRST + _MEASURED, "image/jpeg")
    for image in images[:_FIRST]:
        way.score(image)
    started = time.perf_counter()
    for image in images[_FIRST:]:
        way.score(image)
    print(_MEASURED / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
