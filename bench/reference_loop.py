"""The method of the reference application: score one image after another in one loop, without a broker.

Images are normalised in float64. The network runs in float32, the search is faiss's IndexFlatL2. Each step uses all
cores. `python -m bench.reference_loop config.yaml CATEGORY` prints the JPEG images scored per second.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np

from bench.plant import pictures
from patchline import config
from patchline.banks import store
from patchline.devices import model_manifest, openvino_backbone
from patchline.inspection import score
from patchline.inspection.search import exact_search

_WARM_UP, _MEASURED = 5, 40  # images


class ReferenceLoop:
    """Scores encoded images of one category."""

    def __init__(self, settings: config.Config, category: str) -> None:
        self._recipe = settings.category(category)
        self._index = exact_search.flat_index(store.load(settings.paths.memory_banks / category).search.features)
        self._manifest = model_manifest.read(settings.paths.models, self._recipe.backbone)
        model = settings.paths.models / self._manifest.file
        self._network = openvino_backbone.core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def score(self, image: bytes) -> float:
        """Return the mean of the ten largest distances."""
        pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        resize, side = self._recipe.resize, self._recipe.imagesize
        edge = (resize - side) // 2
        square = cv2.resize(pixels, (resize, resize), interpolation=cv2.INTER_AREA)
        scaled = square[edge : edge + side, edge : edge + side] / 255.0
        mean, std = (np.array(values, np.float64) / 255 for values in (self._manifest.mean, self._manifest.std))
        prepared = ((scaled - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
        patches = self._network([prepared])[0][0]
        distances, _ = self._index.search(patches, 1)
        return score.image_scores(distances[:, 0]).topk10


def main() -> None:
    """Measure and print images per second, for `bench.isolated`."""
    file, category = sys.argv[1:]
    loop = ReferenceLoop(config.load(Path(file)), category)
    images = pictures(_WARM_UP + _MEASURED, "image/jpeg")
    for image in images[:_WARM_UP]:
        loop.score(image)
    started = time.perf_counter()
    for image in images[_WARM_UP:]:
        loop.score(image)
    print(_MEASURED / (time.perf_counter() - started))


if __name__ == "__main__":
    main()
