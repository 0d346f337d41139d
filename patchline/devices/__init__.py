"""Devices that run a backbone: the CPU with OpenVINO, the Ascend with MindX."""

import sys

# OpenVINO reports its import to its makers over the internet, unless this package is missing.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
