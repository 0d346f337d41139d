"""anomalib's side of `bench.anomalib`. Only the Python of anomalib's own environment runs this file.

- `export NETWORK BANK FOLDER`: exports PatchCore with the weights of a network of OpenVINO and the rows of a bank.
- `measure MODEL IMAGES PRECISION COUNT`: judges images and prints what it saw as JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import openvino
import torch
from anomalib.data.utils import read_image
from anomalib.deploy import OpenVINOInferencer
from anomalib.models import Patchcore

_RESIZE, _SIDE, _CAPTURED = 256, 224, 300  # pixels, as `bench.plant` has them
_WARM_UP = 4  # images


def export(network: Path, bank: Path, folder: Path) -> None:
    """Let anomalib export PatchCore to `FOLDER/weights/openvino/model.xml`, for one image of a fixed size at a time."""
    model = Patchcore(
        backbone="wide_resnet101_2",
        layers=["layer2"],
        pre_trained=False,
        pre_processor=Patchcore.configure_pre_processor((_RESIZE, _RESIZE), (_SIDE, _SIDE)),
    )
    _take_weights(model.model.feature_extractor, network)
    model.model.memory_bank = torch.from_numpy(np.load(bank))
    one_image = {"dynamic_axes": None}  # by default it exports a model for two images at a time, whatever they are
    model.eval().to_openvino(folder, input_size=(_CAPTURED, _CAPTURED), onnx_kwargs=one_image)


def _take_weights(extractor: torch.nn.Module, network: Path) -> None:
    """Give an extractor the weights of a network whose convolutions have a bias instead of a normalisation."""
    modules = list(extractor.modules())
    layers = [module for module in modules if isinstance(module, torch.nn.Conv2d)]
    norms = [module for module in modules if isinstance(module, torch.nn.BatchNorm2d)]
    graph = openvino.Core().read_model(network)
    nodes = [node for node in graph.get_ops() if node.get_type_name() == "Convolution"]
    nodes.sort(key=lambda node: int(node.get_friendly_name().rpartition("_")[2]))  # in the order they were made in
    for node, layer, norm in zip(nodes, layers, norms, strict=True):
        (added,) = node.output(0).get_target_inputs()
        layer.weight.data = torch.from_numpy(node.input_value(1).get_node().data.copy())
        norm.bias.data = torch.from_numpy(added.get_node().input_value(1).get_node().data.flatten())
        norm.weight.data.fill_(1)
        norm.running_mean.fill_(0)
        norm.running_var.fill_(1 - norm.eps)


def measure(model: Path, images: Path, precision: str, count: int) -> dict[str, object]:
    """Judge images as anomalib reads and prepares them, as many at a time as OpenVINO chooses for the throughput.

    Returns:
        Images a second, and the mean of the heat map of each image of the folder.
    """
    hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": precision}
    queue = openvino.AsyncInferQueue(openvino.Core().compile_model(model, "CPU", hints))
    means: dict[str, float] = {}

    def keep(request: openvino.InferRequest, name: str) -> None:
        means[name] = float(request.get_tensor("anomaly_map").data.mean())

    def judge(paths: list[Path]) -> None:
        for path in paths:
            queue.start_async([OpenVINOInferencer.pre_process(read_image(path))], path.name)
        queue.wait_all()

    queue.set_callback(keep)
    paths = list(itertools.islice(itertools.cycle(sorted(images.iterdir())), count))
    judge(paths[:_WARM_UP])
    started = time.perf_counter()
    judge(paths)
    return {"per_second": count / (time.perf_counter() - started), "means": means}


def main() -> None:
    """Run the command of the command line."""
    if sys.argv[1] == "export":
        export(*map(Path, sys.argv[2:]))
    else:
        model, images, precision, count = sys.argv[2:]
        print(json.dumps(measure(Path(model), Path(images), precision, int(count))))


if __name__ == "__main__":
    main()
