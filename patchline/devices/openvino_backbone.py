"""The CPU: a backbone run by OpenVINO, which only this file imports."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino.preprocess import PrePostProcessor

from patchline.devices.model_manifest import ModelManifest, Precision
from patchline.protocol.errors import Reason, Retry, SetupError

_PRECISIONS: dict[openvino.Type, Precision] = {
    openvino.Type.f32: "f32",
    openvino.Type.bf16: "bf16",
    openvino.Type.f16: "f16",
}


class OpenVinoBackbone:
    """One compiled model; every calling thread has an inference request, and so a stream, of its own."""

    def __init__(self, model: Path, manifest: ModelManifest, side: int, streams: int, precision: Precision) -> None:
        self.manifest = manifest
        self.side = side
        self.grid = manifest.grid(side)
        self._of_thread = threading.local()
        hint = "f32" if precision == "int8" else precision  # what is quantised says so itself
        settings = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": streams}
        try:
            self._compiled = openvino.Core().compile_model(read_graph(model, manifest, side), "CPU", settings)
        except RuntimeError as error:
            raise SetupError(f"{model}: OpenVINO cannot compile it for {side} x {side} images: {error}") from error
        self.precision: Precision = "int8" if precision == "int8" else self._computed_in()
        shape = self._compiled.output(0).partial_shape
        if shape[1] != self.grid[0] * self.grid[1] or shape[2] != manifest.dim:
            raise SetupError(f"{model}: gives features {shape}, but its manifest says {self.grid} x {manifest.dim}")

    def extract(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 [n, side, side, 3] RGB -> float32 [n, patches, dim], a copy that the caller may keep.

        Raises:
            Retry: OpenVINO refused or failed.
        """
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        try:
            found = self._of_thread.request.infer(images, share_inputs=True, share_outputs=True)
            return np.array(found[0], np.float32)
        except RuntimeError as error:
            raise Retry(Reason.DEVICE_FAILED, f"OpenVINO failed: {error}") from error

    def close(self) -> None:
        """Nothing to give back."""

    def _computed_in(self) -> Precision:
        """What OpenVINO chose: a CPU that cannot do what it was asked for computes in f32, and says so only here."""
        return _PRECISIONS[self._compiled.get_property("INFERENCE_PRECISION_HINT")]


def cpu_name() -> str:
    """The processor's own name, such as AMD EPYC 9R45."""
    return str(openvino.Core().get_property("CPU", "FULL_DEVICE_NAME"))


def read_graph(model: Path, manifest: ModelManifest, side: int) -> openvino.Model:
    """The graph of a model that takes uint8 [n, side, side, 3] RGB. Raises RuntimeError where OpenVINO cannot."""
    graph = _taking_uint8(openvino.Core().read_model(model), manifest)
    graph.reshape([-1, side, side, 3])
    return graph


def save_graph(graph: openvino.Model, path: Path) -> None:
    """An `.xml`, and its weights beside it in a `.bin`: new files, since a worker may have the old ones mapped."""
    with tempfile.TemporaryDirectory(dir=path.parent) as aside:
        made = Path(aside) / path.name
        openvino.save_model(graph, made, compress_to_fp16=False)
        for each in (made.with_suffix(".bin"), made):
            each.replace(path.with_name(each.name))


def _taking_uint8(graph: openvino.Model, manifest: ModelManifest) -> openvino.Model:
    """The graph with layout and normalisation inside, where the model has them not."""
    if manifest.input == "uint8_nhwc":
        return graph
    editor = PrePostProcessor(graph)
    editor.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    editor.input().model().set_layout(openvino.Layout("NCHW"))
    steps = editor.input().preprocess().convert_element_type(openvino.Type.f32)
    steps.mean(list(manifest.mean or ())).scale(list(manifest.std or ()))
    return editor.build()
