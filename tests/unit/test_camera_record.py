"""`patchline camera --record`: the pictures of good parts, in a folder for fit."""

import threading
from pathlib import Path

import numpy as np
import pytest
import zxingcpp

from patchline import config
from patchline.camera import record
from patchline.camera.base import Frame
from patchline.camera.order import Order
from patchline.camera.simulated import Device, Plan, SimulatedCamera, texture
from patchline.inspection import decode
from patchline.protocol.errors import SetupError

ORDER = Order("l", "bottle", 500, rate=200.0)
PATIENCE_MS = 20_000


def settings(**camera):
    loaded = config.load(Path("config.yaml"))
    return loaded.model_copy(update={"camera": config.Camera(frame_timeout_ms=PATIENCE_MS, **camera)})


def with_depth(loaded, bits):
    bottle = loaded.category("bottle").model_copy(update={"bit_depth": bits, "bit_alignment": "low"})
    return loaded.model_copy(update={"categories": {"bottle": bottle}})


def camera(picture=None, **faults):
    device = Device(Plan(frame_s=0.0, **faults), picture)
    return lambda: SimulatedCamera(device)


def fill(folder, wanted, make=None, loaded=None, order=ORDER, **options):
    stop = threading.Event()
    return record.record(loaded or settings(), order, make or camera(), folder, wanted, stop, **options)


def pixels(path, loaded):
    image = path.read_bytes()
    return decode.decode(image, "image/png", loaded.images, loaded.category("bottle").depth)


def test_each_trigger_gives_a_file_that_shows_what_the_worker_would_have_seen(tmp_path):
    folder = tmp_path / "good" / "new"
    assert fill(folder, 5) == 5
    files = sorted(folder.iterdir())
    assert [path.suffix for path in files] == [".png"] * 5
    expected = [np.frombuffer(texture(0, number).data, np.uint8).reshape(128, 128) for number in range(5)]
    for path, grey in zip(files, expected, strict=True):
        assert np.array_equal(pixels(path, settings()), np.repeat(grey[..., None], 3, 2))


def test_all_bits_of_the_camera_are_in_the_files_if_the_category_counts_them(tmp_path):
    deep = np.arange(64 * 64, dtype="<u2").reshape(64, 64)
    loaded = with_depth(settings(), 12)
    fill(tmp_path, 1, camera(lambda _: Frame(deep.tobytes(), "Mono12", 64, 64)), loaded)
    (path,) = tmp_path.iterdir()
    assert np.array_equal(pixels(path, loaded)[..., 0], deep >> 4)


@pytest.mark.parametrize(("encoding", "suffix"), [("jpeg", ".jpg"), ("raw", ".pgm")])
def test_the_encoding_is_that_of_the_line(tmp_path, encoding, suffix):
    fill(tmp_path, 2, loaded=settings(encoding=encoding))
    assert {path.suffix for path in tmp_path.iterdir()} == {suffix}


def test_a_folder_with_other_images_is_refused_unless_they_are_to_be_mixed(tmp_path):
    fill(tmp_path, 2)
    with pytest.raises(SetupError, match=r"holds 2 images already, such as bottle-.*; name an empty folder"):
        fill(tmp_path, 2)
    assert fill(tmp_path, 3, add=True) == 3
    assert len(list(tmp_path.iterdir())) == 5


def test_parts_without_a_frame_are_no_images(tmp_path):
    assert fill(tmp_path, 8, camera(broken=0.5, seed=3)) == 8
    assert len(list(tmp_path.iterdir())) == 8


def test_a_part_without_the_code_that_is_required_is_no_image(tmp_path):
    code = np.array(zxingcpp.create_barcode("SN-7", zxingcpp.BarcodeFormat.DataMatrix).to_image(scale=5))
    marked = np.pad(code, 20, constant_values=255)
    shown = [Frame(grey.tobytes(), "Mono8", *grey.shape[::-1]) for grey in (marked, np.full_like(marked, 128))]
    loaded = settings(part_code="required")
    assert fill(tmp_path, 3, camera(lambda number: shown[number % 2]), loaded) == 3
    assert all(np.array_equal(pixels(path, loaded)[..., 0], marked) for path in tmp_path.iterdir())


def test_the_end_of_the_triggers_ends_it(tmp_path):
    order = Order("l", "bottle", 500, rate=50.0, count=3)
    assert fill(tmp_path, 10, order=order) <= 3


def test_a_file_that_is_no_image_is_left_out(tmp_path):
    shows = iter([b"text", b"\x89PNG\r\n\x1a\nx"] * 500)
    assert fill(tmp_path, 2, camera(lambda _: Frame(next(shows)))) == 2
    assert {path.read_bytes()[1:4] for path in tmp_path.iterdir()} == {b"PNG"}


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot be created"):
        fill(tmp_path / "file" / "good", 1)
