"""The plant under test: synthetic images, and categories with models and fitted banks."""

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
WIDE = "wide"  # WideResNet-101-2 layer2 at 224 x 224
WIDE8 = "wide-int8"  # WIDE, quantised
DEFAULT = "default"  # the backbone that comes with Patchline
DEFAULT_BF16 = "default-bf16"  # the same in bf16
_GOOD_IMAGES = 104
_BANK_ROWS = {WIDE: 1638, DEFAULT: 3000}
_PATCHES = {WIDE: 784, DEFAULT: 1024}  # of an image
_FORMATS = {"image/png": ".png", "image/jpeg": ".jpg"}


def pictures(count: int, content_type: str) -> list[bytes]:
    """Return encoded images of 300 x 300 pixels with a fine grain; one in ten has a bright scratch."""
    rng = np.random.default_rng(0)
    encoded = []
    for number in range(count):
        pixels = cv2.GaussianBlur(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8), (0, 0), 2)
        if has_scratch(number):
            cv2.line(pixels, (60, 80), (220, 210), (255, 255, 255), 5)
        encoded.append(cv2.imencode(_FORMATS[content_type], pixels)[1].tobytes())
    return encoded


def has_scratch(number: int) -> bool:
    """Return True if image `number` of `pictures` has a scratch."""
    return number % 10 == 9


def build(folder: Path, models: Path, names: tuple[str, ...] = (WIDE, WIDE8, DEFAULT)) -> config.Config:
    """Fill a folder with models, fitted banks and `config.yaml`.

    Args:
        folder: an empty folder.
        models: the folder of the default backbone.
        names: the categories. WIDE8 requires WIDE.

    Returns:
        The settings of the plant.

    Raises:
        SetupError: WIDE8 is requested, and the extra `quantize` is not installed.
    """
    bench_models = folder / "models"
    random_network.write(bench_models, LAYER2)
    for file in models.glob("efficientnet_lite0.*"):
        (bench_models / file.name).symlink_to(file.resolve())
    recipes = {
        WIDE: _recipe(WIDE, LAYER2.name, LAYER2.layer, LAYER2.side),
        DEFAULT: _recipe(DEFAULT, "efficientnet_lite0", "blocks4+10", 256),
    }
    recipes[DEFAULT_BF16] = recipes[DEFAULT].model_copy(update={"precision": "bf16"})
    (folder / "config.yaml").write_text("categories: {}\n", encoding="utf-8")
    settings = config.Config(categories={name: recipes[name] for name in names if name in recipes})
    paths = config.Paths(
        models=bench_models, memory_banks=folder / "banks", spool=folder / "spool", gate=folder / "gate"
    )
    settings = settings.model_copy(update={"paths": paths})
    good_images = write_good_images(folder / "good")
    if WIDE8 in names:
        settings = _with_quantized(settings, good_images)
    config.save(settings, folder / "config.yaml")
    for name in names:
        fit.fit(settings, name, good_images, seed=0)
    return settings


def write_good_images(folder: Path, count: int = _GOOD_IMAGES) -> Path:
    """Write images without scratches into a new folder, which is returned."""
    folder.mkdir()
    images = pictures(count * 10 // 9 + 1, "image/png")
    good_images = [image for number, image in enumerate(images) if not has_scratch(number)]
    for number, image in enumerate(good_images[:count]):
        (folder / f"{number:03}.png").write_bytes(image)
    return folder


def _with_quantized(settings: config.Config, good_images: Path) -> config.Config:
    quantized, _ = quantize.quantize(settings, WIDE, good_images)
    recipe = settings.category(WIDE).model_copy(update={"backbone": quantized.name})
    return settings.model_copy(update={"categories": {**settings.categories, WIDE8: recipe}})


def _recipe(name: str, backbone: str, layer: str, imagesize: int) -> config.Category:
    ratio = round(_BANK_ROWS[name] / (_GOOD_IMAGES * _PATCHES[name]), 6)
    return config.Category(backbone=backbone, layer=layer, resize=256, imagesize=imagesize, coreset_ratio=ratio)
