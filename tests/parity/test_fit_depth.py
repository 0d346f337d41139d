"""`fit` on images of a 10- or 12-bit camera in files of 16 bits."""

import cv2
import numpy as np
import pytest

from tests import forked, pictures
from tests.parity.test_fit import FIVE_IMAGES, error, fit, home, manifest

pytestmark = pytest.mark.timeout(180)
KEYS = f"{FIVE_IMAGES}, coreset_ratio: 0.3"
__all__ = ["home"]


def write(home, bits, shift, suffix=".tiff", numbers=range(6), folder="good"):
    """Write the surfaces of `home` as values of a depth in files of 16 bits, with noise below the eighth bit."""
    for path in sorted((home / "good").glob("*.png"))[numbers.start : numbers.stop]:
        grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        noise = np.random.default_rng(0).integers(0, 1 << (bits - 8), grey.shape)
        values = ((grey.astype(np.uint16) << (bits - 8)) | noise.astype(np.uint16)) << shift
        encoded = pictures.tiff(values) if suffix == ".tiff" else pictures.png(values, 0, 16)
        (home / folder).mkdir(parents=True, exist_ok=True)
        (home / folder / f"deep-{path.stem}{suffix}").write_bytes(encoded)


def has_no_bank(home):
    return not (home / "faiss-index-precision" / "part").exists()


@pytest.mark.parametrize("suffix", [".tiff", ".png"])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_images_that_never_use_their_upper_bits_are_refused_and_their_depth_named(home, bits, suffix):
    write(home, bits, 0, suffix, folder="deep")
    text = error(fit(home, KEYS, "deep"))
    assert f"deep-part0_0{suffix}: has 16 bits per channel, but its greatest value is" in text
    assert f"set bit_depth for the category to that of the camera, as it seems {bits}, or to 16" in text
    assert has_no_bank(home)


@pytest.mark.parametrize(("keys", "shift"), [("bit_depth: 12", 0), ("bit_depth: 12, bit_alignment: high", 4)])
def test_a_bank_of_12_bits_is_that_of_the_same_images_in_8_bits(home, keys, shift):
    assert fit(home, KEYS).returncode == 0
    eight = manifest(home)
    write(home, 12, shift, folder="deep")
    result = fit(home, f"{KEYS}, {keys}", "deep")
    assert result.returncode == 0, result.stderr
    assert (manifest(home)["index_sha256"], manifest(home)["thresholds"]) == (
        eight["index_sha256"],
        eight["thresholds"],
    )
    assert (eight["bit_depth"], manifest(home)["bit_depth"]) == (None, 12)


def test_a_bank_of_another_depth_is_not_served(home):
    write(home, 12, 0, folder="test/good")
    write(home, 12, 0, folder="test/scratch")
    assert fit(home, f"{KEYS}, bit_depth: 12", "test/good").returncode == 0
    text = home.joinpath("config.yaml").read_text()
    for other, said in (("bit_depth: 14", "bit_depth was 12 and is 14"), ("bit_depth: null", "was 12 and is None")):
        home.joinpath("config.yaml").write_text(text.replace("bit_depth: 12", other))
        result = forked.run(["evaluate", "--category", "part", home, "--config", home / "config.yaml"])
        assert said in error(result, code=78)


def test_images_of_the_full_range_of_16_bits_need_no_depth_also_among_those_of_8(home):
    write(home, 16, 0, numbers=range(3))
    result = fit(home, KEYS)
    assert result.returncode == 0, result.stderr


def test_a_folder_of_8_and_of_12_bits_is_refused_with_a_depth_and_without(home):
    write(home, 12, 0, numbers=range(3))
    assert "as it seems 12" in error(fit(home, KEYS))
    assert "it has 8 bits per channel, but bit_depth of the category is 12" in error(
        fit(home, f"{KEYS}, bit_depth: 12")
    )
    assert "but 8 bits end at 255" in error(fit(home, f"{KEYS}, bit_depth: 8"))
    assert has_no_bank(home)


def test_a_dark_image_among_bright_ones_of_16_bits_is_named(home):
    write(home, 16, 0, folder="deep")
    write(home, 12, 0, ".png", range(1), folder="deep")
    text = error(fit(home, KEYS, "deep"))
    assert "deep-part0_0.png: has 16 bits per channel" in text
    assert "if both are of one camera and this one is dark, set bit_depth: 16" in text
    assert fit(home, f"{KEYS}, bit_depth: 16", "deep").returncode == 0


def test_images_of_another_depth_than_the_recipe_are_refused(home):
    write(home, 14, 0, folder="deep")
    assert "but 12 bits end at 4095" in error(fit(home, f"{KEYS}, bit_depth: 12", "deep"))
    assert "its lowest 4 bits are in use" in error(fit(home, f"{KEYS}, bit_depth: 12, bit_alignment: high", "deep"))
    assert "bit_alignment is high, but bit_depth is not set" in error(fit(home, f"{KEYS}, bit_alignment: high", "deep"))
