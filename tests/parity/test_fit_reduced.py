"""`fit` on JPEG images that are large enough to be decoded at a reduced scale."""

import dataclasses

import pytest

from patchline import config
from patchline.banks import serving
from patchline.devices.backbone import CPU
from patchline.inspection.inspector import untimed
from tests.parity.test_fit import FIVE_IMAGES, fit, home, manifest, write_surface

pytestmark = pytest.mark.timeout(180)
KEYS = f"{FIVE_IMAGES}, coreset_ratio: 1.0"
__all__ = ["home"]


@pytest.fixture
def images(home):
    for seed in range(6):
        write_surface(home / "large" / f"{seed}.jpg", seed, side=600)
    return sorted((home / "large").iterdir())


@pytest.mark.parametrize(("keys", "reduced"), [(KEYS, True), (f"{KEYS}, reduced_jpeg: false", False)])
def test_a_bank_of_all_patches_finds_those_of_its_images_only_by_the_rule_of_its_fit(home, images, keys, reduced):
    result = fit(home, keys, "large")
    assert result.returncode == 0, result.stderr
    assert manifest(home)["reduced_jpeg"] is reduced
    inspector = serving.load(config.load(home / "config.yaml"), ["part"], CPU, 1)["part"]
    other = inspector.bank.manifest.model_copy(update={"reduced_jpeg": not reduced})
    turned = dataclasses.replace(inspector, bank=dataclasses.replace(inspector.bank, manifest=other))
    limit = inspector.thresholds.fail / 1000
    for path in images:
        assert inspector.inspect(path.read_bytes(), "image/jpeg", untimed).score < limit
        assert turned.inspect(path.read_bytes(), "image/jpeg", untimed).score > limit
