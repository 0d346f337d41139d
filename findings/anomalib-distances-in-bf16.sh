#!/bin/sh
# anomalib 2.7.0, OpenVINO 2026.4.1: on a CPU with BF16 (avx512_bf16, AMX), OpenVINO computes the exported PatchCore in
# bf16 unless it is told otherwise, and OpenVINOInferencer says nothing about precision. The export has the search in
# it, as |x|^2 + |y|^2 - 2xy. In bf16 that difference of large numbers is mostly rounding: a good part's heat map and
# score have little to do with its distances, and the same files give other scores on another CPU.
#
# Needs such a CPU, and 7 GB for a time. Seen, the mean of the heat maps of eight parts, in shares of torch's:
#   f32 1.000 each; as it comes (bf16) .74 to .94. With 16,384 rows of a WideResNet-101 .54 (docs/performance.md).
#
# Patchline's network may run in bf16, its search is in f32 with exact distances. `python -m bench.anomalib` compares
# both. (The export takes exactly two images unless dynamic_axes is None, so the inferencer refuses one.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
	'anomalib[openvino]==2.7.0' torch==2.14.1 torchvision==0.29.1 openvino==2026.4.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2> "$folder/log" <<'PYTHON'
import sys

import torch
from anomalib.deploy import OpenVINOInferencer
from anomalib.models import Patchcore

torch.manual_seed(0)
model = Patchcore(backbone="resnet18", layers=["layer2"], pre_trained=False, pre_processor=False).eval()
images = torch.rand(8, 3, 128, 128)
with torch.no_grad():
    features = model.model.feature_pooler(model.model.feature_extractor(images)["layer2"])
    model.model.memory_bank = model.model.reshape_embedding(features)
    parts = (images + 0.05 * torch.randn_like(images)).clamp(0, 1)
    expected = [model(part[None]).anomaly_map.mean().item() for part in parts]
path = model.to_openvino("export", input_size=(128, 128), onnx_kwargs={"dynamic_axes": None})
ratios = {}
for name, config in (("default", {}), ("f32", {"INFERENCE_PRECISION_HINT": "f32"})):
    inferencer = OpenVINOInferencer(path, "CPU", config)
    used = inferencer.model.get_property("INFERENCE_PRECISION_HINT").to_string()
    means = [inferencer.predict(part[None]).anomaly_map.mean() for part in parts]
    ratios[name] = [float(mean) / right for mean, right in zip(means, expected)]
    print(f"{name} ({used}):", " ".join(f"{ratio:.3f}" for ratio in ratios[name]), "of torch's")
sys.exit(0 if max(abs(ratio - 1) for ratio in ratios["default"]) > 0.1 else 1)
PYTHON
