"""The plant that is measured: categories with models, images and banks that are made from nothing."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from bench import random_network
from bench.random_network import LAYER2
from patchline import config
from patchline.banks import fit
from patchline.models import quantize

SIDE = 300
WIDE, DEFAULT = "wide", "default"  # WideResNet-101-2 layer2 at 224, and the backbone that comes with Patchline
WIDE8 = "wide-int8"  # the first, quantised
_GOOD = 104
_BANK = {WIDE: 1638, DEFAULT: 3000}
_FORMATS = {"image/png": ".png", "image/jpeg": ".jpg"}


def pictures(count: int, content_type: str) -> list[bytes]:
    """Encoded images of 300 x 300 pixels with the fine grain of a real surface; one in ten has a bright scratch."""
    rng = np.random.default_rng(0)
    encoded = []
    for number in range(count):
        pixels = cv2.GaussianBlur(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8), (0, 0), 2)
        if number % 10 == 9:
            cv2.line(pixels, (60, 80), (220, 210), (255, 255, 255), 5)
        encoded.append(cv2.imencode(_FORMATS[content_type], pixels)[1].tobytes())
    return encoded


def build(folder: Path, models: Path, wanted: tuple[str, ...] = (WIDE, WIDE8, DEFAULT)) -> config.Config:
    """A folder with models, fitted banks and `config.yaml`.

    Args:
        folder: empty.
        models: where the default backbone is.
        wanted: which of the categories; the quantised one needs that which it is made of.

    Raises:
        SetupError: the quantised one is wanted, and the extra `quantize` is not installed.
    """
    own = folder / "models"
    random_network.write(own, LAYER2)
    for file in models.glob("efficientnet_lite0.*"):
        (own / file.name).symlink_to(file.resolve())
    recipes = {
        WIDE: _recipe(LAYER2.name, LAYER2.layer, 256, LAYER2.side, _BANK[WIDE] / ((_GOOD) * 784)),
        DEFAULT: _recipe("efficientnet_lite0", "blocks4+10", 256, 256, _BANK[DEFAULT] / ((_GOOD) * 1024)),
    }
    (folder / "config.yaml").write_text("categories: {}\n", encoding="utf-8")
    settings = config.Config(categories={name: recipes[name] for name in wanted if name in recipes})
    paths = config.Paths(models=own, memory_banks=folder / "banks", spool=folder / "spool", gate=folder / "gate")
    settings = settings.model_copy(update={"paths": paths})
    good = _good(folder)
    if WIDE8 in wanted:
        settings = _with_quantized(settings, good)
    config.save(settings, folder / "config.yaml")
    for name in wanted:
        fit.fit(settings, name, good, seed=0)
    return settings


def _good(folder: Path) -> Path:
    good = folder / "good"
    good.mkdir()
    plain = [image for number, image in enumerate(pictures(_GOOD * 10 // 9 + 1, "image/png")) if number % 10 != 9]
    for number, image in enumerate(plain[:_GOOD]):
        (good / f"{number:03}.png").write_bytes(image)
    return good


def _with_quantized(settings: config.Config, good: Path) -> config.Config:
    made, _ = quantize.quantize(settings, WIDE, good)
    recipe = settings.category(WIDE).model_copy(update={"backbone": made.name})
    return settings.model_copy(update={"categories": {**settings.categories, WIDE8: recipe}})


def _recipe(backbone: str, layer: str, resize: int, imagesize: int, share: float) -> config.Category:
    return config.Category(
        backbone=backbone, layer=layer, resize=resize, imagesize=imagesize, coreset_ratio=round(share, 6)
    )
