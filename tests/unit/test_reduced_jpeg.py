"""A large JPEG is decoded at a half, a quarter or an eighth of its sides, where its memory bank says so."""

import dataclasses
import io

import cv2
import numpy as np
import pytest
from PIL import Image

from patchline import config
from patchline.banks import serving
from patchline.devices.backbone import CPU
from patchline.inspection import decode, picture, preprocess, score
from patchline.inspection.inspector import untimed
from patchline.inspection.memory_bank import BankManifest
from patchline.protocol.errors import SetupError, Unusable
from patchline.protocol.messages import Region

LIMITS = config.Images()
RESIZE = 32
MODES = ["L", "RGB", "CMYK"]


def scene(height, width, mode="L"):
    """Blurred noise, as Pillow has it."""
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(cv2.GaussianBlur(noise, (0, 0), 5)).convert(mode)


def jpeg(image, **options):
    target = io.BytesIO()
    image.save(target, "JPEG", **options)
    return target.getvalue()


def captured(image, resize=RESIZE):
    return decode.for_backbone(image, "image/jpeg", LIMITS, resize=resize)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("sides", "reduced"),
    [
        ((255, 700), (255, 700)),
        ((256, 700), (128, 350)),
        ((700, 257), (350, 129)),
        ((513, 777), (129, 195)),
        ((1025, 1024), (129, 128)),
        ((1031, 3001), (129, 376)),
        ((9000, 40), (9000, 40)),
    ],
)
def test_both_sides_stay_four_times_as_long_as_needed(sides, reduced, mode):
    decoded = captured(jpeg(scene(*sides, mode)))
    assert decoded.pixels.shape == (reduced if mode == "L" else (*reduced, 3))
    assert decoded.shape == sides


def test_only_a_jpeg_is_reduced_and_only_if_asked():
    image = scene(1024, 1024)
    assert captured(jpeg(image), resize=None).pixels.shape == (1024, 1024)
    assert decode.decode(jpeg(image), "image/jpeg", LIMITS).shape == (1024, 1024, 3)
    for suffix in (".png", ".bmp", ".tiff", ".webp"):
        encoded = cv2.imencode(suffix, np.asarray(image))[1].tobytes()
        assert captured(encoded).pixels.shape[:2] == (1024, 1024)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 40}])
@pytest.mark.parametrize("sides", [(300, 290), (600, 515), (1400, 1029)])
def test_the_prepared_image_is_nearly_that_of_the_full_one(sides, options, mode):
    image = jpeg(scene(*sides, mode), **options)
    full, reduced = (preprocess.prepare(captured(image, resize).pixels, RESIZE, RESIZE) for resize in (None, RESIZE))
    difference = np.abs(full.astype(int) - reduced)
    assert difference.mean() < 1
    assert difference.max() <= 6


def test_the_colours_and_the_orientation_are_those_of_the_full_image():
    pixels = np.zeros((1024, 1024, 3), np.uint8)
    pixels[:512, :, 0] = 255  # red above, blue below
    pixels[512:, :, 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    decoded = captured(jpeg(Image.fromarray(pixels), exif=exif, quality=95)).pixels
    assert decoded.shape == (128, 128, 3)
    assert np.abs(decoded[10, 10].astype(int) - (255, 0, 0)).max() < 4
    assert np.abs(decoded[-10, 10].astype(int) - (0, 0, 255)).max() < 4


def refusal(image, resize):
    try:
        captured(image, resize)
    except Unusable as error:
        return error.reason, error.detail
    return None


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("side", [256, 512, 1024])
def test_a_truncated_or_corrupt_jpeg_is_refused_as_if_it_were_decoded_in_full(side, options, mode):
    image, rng = jpeg(scene(side, side, mode), **options), np.random.default_rng(side)
    damaged = [image[: int(len(image) * share)] for share in (0.01, 0.3, 0.9, 0.99, 0.999)] + [image[:-1], image[:-2]]
    for _ in range(30):
        changed = bytearray(image)
        for place in rng.integers(2, len(image), 3):
            changed[place] = rng.integers(0, 256)
        damaged.append(bytes(changed))
    refused = [refusal(each, None) for each in damaged]
    assert any(refused)
    assert [refusal(each, RESIZE) for each in damaged] == refused


def test_the_regions_of_a_reduced_picture_are_drawn_at_their_places():
    values = np.zeros((32, 32), np.float32)
    heat_map = score.HeatMap(values, (1031, 801), (slice(0, 1031), slice(0, 801)))
    region = Region(x=400, y=240, width=80, height=160, score=2.0)
    drawn = picture.overlay(np.zeros((129, 101), np.uint8), heat_map, (region,))
    rows, columns = np.nonzero(drawn[..., 0])
    assert (rows.min(), rows.max()) == (30, 49)
    assert (columns.min(), columns.max()) == (50, 59)


@pytest.fixture(scope="module")
def inspector(plant):
    return serving.load(config.load(plant / "config.yaml"), ["brick"], CPU, 1)["brick"]


@pytest.fixture(scope="module")
def large(texture_folder):
    """A scratched part of the plant, captured by a camera of five megapixels."""
    part = cv2.imread(str(next((texture_folder / "test" / "scratch").glob("*.png"))))
    return jpeg(Image.fromarray(cv2.resize(part[..., ::-1], (2592, 1944), interpolation=cv2.INTER_CUBIC)), quality=95)


def of_an_earlier_build(inspector):
    manifest = BankManifest.model_validate_json(inspector.bank.manifest.model_dump_json(exclude={"reduced_jpeg"}))
    return dataclasses.replace(inspector, bank=dataclasses.replace(inspector.bank, manifest=manifest))


def test_a_new_bank_reduces_and_one_of_an_earlier_build_has_its_score_to_the_last_digit(inspector, large):
    earlier = of_an_earlier_build(inspector)
    category, rgb = inspector.category, inspector.decode(large, "image/jpeg")
    prepared = preprocess.prepare(rgb, category.resize, category.imagesize)
    assert inspector.bank.manifest.reduced_jpeg
    assert np.array_equal(earlier.features(large, "image/jpeg"), inspector.backbone.extract(prepared[None])[0])
    assert not np.array_equal(inspector.features(large, "image/jpeg"), earlier.features(large, "image/jpeg"))


def test_a_reduced_image_has_the_decision_score_and_regions_of_the_full_one(inspector, large):
    ours, full = (each.inspect(large, "image/jpeg", untimed) for each in (inspector, of_an_earlier_build(inspector)))
    assert ours.decision is full.decision
    assert ours.score == pytest.approx(full.score, rel=0.05)
    assert (ours.heat_map.image_shape, ours.heat_map.window) == (full.heat_map.image_shape, full.heat_map.window)
    assert max(ours.image.shape) < max(full.image.shape) == 2592
    hottest = [(each.regions[0].x, each.regions[0].y) for each in (ours, full)]
    assert hottest[0] == pytest.approx(hottest[1], abs=2592 / 16)  # a patch
    assert picture.thumbnail(ours.image, ours.heat_map, ours.regions)


def test_a_category_in_full_refuses_a_reduced_bank_and_takes_one_of_an_earlier_build(inspector):
    in_full = inspector.category.model_copy(update={"reduced_jpeg": False})
    served = inspector.backbone, CPU
    earlier = of_an_earlier_build(inspector).bank.manifest
    serving.check_match("brick", in_full, *served, earlier)
    serving.check_match("brick", inspector.category, *served, earlier)
    with pytest.raises(SetupError, match="reduced_jpeg was True and is False; fit it again with"):
        serving.check_match("brick", in_full, *served, inspector.bank.manifest)
