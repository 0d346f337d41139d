from pathlib import Path

import openvino

from patchline.devices import backbone, loading


def test_a_cpu_without_bf16_reports_f32():
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    model = loading.load(Path("models"), "efficientnet_lite0", 64, backbone.CPU, 1, "bf16")
    assert model.precision == ("bf16" if "BF16" in capabilities else "f32")
