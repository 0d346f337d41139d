"""What lies on the belt: solar cells if they are installed, as by `make plant`, and else pieces of a brick wall.

For a camera that shows no parts, the bank is fitted on what it shows.
"""

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml

from patchline import config
from patchline.banks import fit
from patchline.banks.choices import Choices
from patchline.camera import pixels
from patchline.camera.aravis import AravisCamera
from patchline.camera.base import BrokenFrameError, NoFrameError
from patchline.demo import cells
from patchline.protocol.errors import SetupError
from tests import fake_gige
from tests.conftest import make_textures

CATEGORY = "goods"
_RECIPE = {"backbone": "efficientnet_lite0", "layer": "blocks4+10"}
_BRICK = _RECIPE | {"resize": 128, "imagesize": 128, "coreset_ratio": 0.05, "false_reject_rate": 0.05}
_CELLS = "solar_cell_mono"
_FITTED = 99  # as few as are enough for a target of 1 %
_GOOD_SHARE = 9  # good parts to one defect
SYNTHETIC = {"pixel_format": "Mono8", "region": [0, 0, 128, 128]}  # the camera that shows no parts
_SYNTHETIC_FRAMES = 100


@dataclass(frozen=True)
class Goods:
    """A category with its memory bank, and pictures of its parts.

    Attributes:
        name: what the pictures show.
        folder: `config.yaml` and the fitted bank of CATEGORY.
        pictures: of good parts in folders named `good`, and of defects; the belt takes one after the other at random.
    """

    name: str
    folder: Path
    pictures: list[Path]


def digest(image):
    """Return a digest of the pixels of a grey picture, however it is encoded."""
    grey = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_GRAYSCALE)
    return hashlib.sha256(repr(grey.shape).encode() + grey.tobytes()).hexdigest()[:16]


def make(folder, shows_parts=True):
    """Fit the category in an empty folder."""
    if not shows_parts:
        return _synthetic(folder)
    try:
        cells.data_folder()
    except SetupError:
        return _bricks(folder)
    return _solar_cells(folder)


def _solar_cells(folder):
    images = folder.with_name(f"{folder.name}-images")
    cells.link_images(images, _CELLS, _FITTED)
    recipe = config.load(config.PACKAGED).category(_CELLS).model_dump(exclude_unset=True)
    accepted = [name for name in cells.ACCEPTED[_CELLS] if (images / "train" / "good" / name).exists()]
    _fit(folder, recipe, images / "train" / "good", accepted)
    return Goods("solar cells", folder, _mixed(images / "test", "defect"))


def _bricks(folder):
    images = folder.with_name(f"{folder.name}-images")
    make_textures(images, "brick.png")
    for path in images.glob("t*/*/*.png"):
        assert cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    _fit(folder, _BRICK, images / "train" / "good", ())
    return Goods("bricks", folder, _mixed(images / "test", "scratch"))


def _synthetic(folder):
    """Fit on the frames of Aravis' fake camera."""
    good = folder.with_name(f"{folder.name}-images") / "train" / "good"
    good.mkdir(parents=True)
    with fake_gige.fake_camera():
        camera = AravisCamera(fake_gige.ADDRESS, config.CameraRules(**SYNTHETIC))
        camera.open()
        for number in range(2 * _SYNTHETIC_FRAMES):
            camera.arm()
            camera.trigger()
            with contextlib.suppress(NoFrameError, BrokenFrameError):  # its packets are lost if the machine stands
                image, _ = pixels.encode(camera.grab(5.0), config.BitDepth(), "png", 95)
                (good / f"{number:03}.png").write_bytes(image)
            if len(list(good.iterdir())) == _SYNTHETIC_FRAMES:
                break
        camera.close()
    _fit(folder, _BRICK | {"near_duplicates": "ignore"}, good, ())
    return Goods("what Aravis' fake camera shows", folder, sorted(good.iterdir())[:1])


def _fit(folder, recipe, images, accepted):
    (folder / "config.yaml").write_text(yaml.safe_dump({"categories": {CATEGORY: recipe}}))
    (folder / "models").symlink_to(Path("models").resolve())
    fit.fit(config.load(folder / "config.yaml"), CATEGORY, images, seed=0, choices=Choices(accepted=accepted))


def _mixed(folder, kind):
    return sorted((folder / "good").glob("*.png")) * _GOOD_SHARE + sorted((folder / kind).glob("*.png"))
