"""A folder as it comes from a phone and a camera -> a memory bank, with nothing but what the commands say."""

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.conftest import SIDE, TEXTURES

pytestmark = pytest.mark.timeout(300)
PARTS, DEFECTS = 106, 2
UNREADABLE, DEFECTIVE = "DCIM/100APPLE/IMG_9002.JPG", ("camera/part 106.png", "camera/part 107.png")
ORIENTATION = 0x0112


def parts():
    """Pieces of a wall, the last ones with a scratch."""
    wall = cv2.imread(str(TEXTURES / "brick.png"), cv2.IMREAD_COLOR_RGB)
    corners = np.random.default_rng(3).permutation([(y, x) for y in range(0, 385, 38) for x in range(0, 385, 38)])
    for number, (y, x) in enumerate(corners[: PARTS + DEFECTS]):
        piece = wall[y : y + SIDE, x : x + SIDE].copy()
        if number >= PARTS:
            cv2.line(piece, (20, 30 + 20 * (number - PARTS)), (110, 90), (255, 255, 255), 4)
        yield Image.fromarray(piece)


@pytest.fixture
def pictures(tmp_path):
    """Photos of a phone with EXIF orientations, files of a camera in three formats, and what lies beside them."""
    phone, camera, thumbnails = (tmp_path / "pictures" / name for name in ("DCIM/100APPLE", "camera", ".thumbnails"))
    for folder in (phone, camera, thumbnails):
        folder.mkdir(parents=True)
    for number, part in enumerate(parts()):
        if number < PARTS and number % 4 == 0:
            tags = Image.Exif()
            tags[ORIENTATION] = 6 if number % 8 else 1
            part.save(phone / f"IMG_{number:04}.JPG", exif=tags, quality=95)
            part.resize((32, 32)).save(thumbnails / f"IMG_{number:04}.JPG")
        else:
            part.save(camera / f"part {number}.{('bmp', 'png', 'tif', 'png')[number % 4 if number < PARTS else 1]}")
    shutil.copy(phone / "IMG_0000.JPG", phone / "IMG_0000 (1).JPG")
    shutil.copy(camera / "part 2.tif", camera / "Copy of part 2.tif")
    (camera / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(500))
    (phone / "IMG_9001.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(500))
    content = (phone / "IMG_0004.JPG").read_bytes()
    (phone / "IMG_9002.JPG").write_bytes(content[: len(content) // 2])
    return tmp_path / "pictures"


def run(folder, *arguments):
    command = [sys.executable, "-m", "patchline", *map(str, arguments)]
    environment = {"PYTHONPATH": str(Path.cwd())}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def options_for(text):
    """The options that a message suggests: the user leaves out what is no good part, and accepts what is one."""
    names = [shlex.split(option)[1] for option in re.findall(r"--leave-out (?:'[^']*'|\S+)", text)]
    return [
        word for name in names for word in ("--leave-out" if name in (UNREADABLE, *DEFECTIVE) else "--accept", name)
    ]


def test_a_new_user_gets_from_a_folder_of_a_phone_and_a_camera_to_a_memory_bank(pictures, tmp_path):
    plant, options, messages = tmp_path / "plant", [], []
    assert run(tmp_path, "init", plant, "--line", "press-3", "--category", "gasket").returncode == 0
    result = run(plant, "fit", "--category", "gasket", pictures)
    while result.returncode and len(messages) < 4:  # do what the last message says
        messages.append((result.returncode, result.stderr.splitlines()[-1]))
        options += options_for(messages[-1][1])
        result = run(plant, "fit", "--category", "gasket", pictures, *options)
    assert result.returncode == 0, result.stderr

    assert "1 of 111 images cannot be read" in messages[0][1]
    assert [code for code, _ in messages] == [2] + [1] * (len(messages) - 1)
    assert "stand out, so no memory bank was written" in messages[1][1]
    assert (plant / "out" / "gasket-review.png").is_file()
    left_out = {name for option, name in itertools.pairwise(options) if option == "--leave-out"}
    assert left_out == {UNREADABLE, *DEFECTIVE}

    report = [line for line in result.stderr.splitlines() if line.startswith(("left out", str(PARTS)))]
    assert report == [
        "106 good images",
        f"left out: 2 exact copies, such as {pictures}/DCIM/100APPLE/IMG_0000.JPG",
        f"left out: 3 named by --leave-out, such as {pictures}/DCIM/100APPLE/IMG_9002.JPG",
        f"left out: 27 hidden, partial, or in system folders, such as {pictures}/.thumbnails/IMG_0000.JPG",
        f"left out: 1 .heic files, which are not read, such as {pictures}/DCIM/100APPLE/IMG_9001.HEIC",
    ]
    assert "13 images have another EXIF orientation than most" in result.stderr
    assert "Of 1,000 good parts, expect about" in result.stdout
    manifest = json.loads((plant / "faiss-index-precision" / "gasket" / "manifest.json").read_text())
    assert manifest["good_images"] == PARTS
    assert set(manifest["left_out"]) == left_out
