from pathlib import Path

import openvino

from patchline.devices import backbone, loading


def test_a_cpu_without_bf16_does_not_say_that_it_computes_in_it():
    can = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    loaded = loading.load(Path("models"), "efficientnet_lite0", 64, backbone.CPU, 1, "bf16")
    assert loaded.precision == ("bf16" if "BF16" in can else "f32")
