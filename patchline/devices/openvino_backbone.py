"""Backbones on the CPU with OpenVINO. The only file that uses OpenVINO."""

from __future__ import annotations

import functools
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline.devices import mapped_file
from patchline.devices.model_manifest import ModelManifest, Precision
from patchline.protocol import optional_imports
from patchline.protocol.errors import Reason, Retry, SetupError

with optional_imports.without("openvino.tools.ovc"):  # its converter takes 5 MB, and sends telemetry
    import openvino
    from openvino.preprocess import PrePostProcessor

_PRECISIONS: dict[openvino.Type, Precision] = {
    openvino.Type.f32: "f32",
    openvino.Type.bf16: "bf16",
    openvino.Type.f16: "f16",
}


@functools.cache
def core() -> openvino.Core:
    """Return the one Core of this process.

    The CPU plugin of each Core replaces the thread's signal stack, and puts the earlier one back at its end. If several
    end in the order of their start, the last one puts a freed stack back, and the next signal crashes the process.
    """
    return openvino.Core()


class OpenVinoBackbone:
    """Implements `backbone.Backbone` with one compiled model. It has as many inference requests as work at once.

    The model is compiled for one image at a time, which is how all callers use it: OpenVINO then plans its memory and
    its kernels once, and an image takes an eighth less. Its threads are not bound to cores: one that is bound waits for
    its core while the other one is free.
    """

    source_sha256: str | None = None

    def __init__(
        self,
        model: Path,
        manifest: ModelManifest,
        side: int,
        streams: int,
        precision: Precision,
        cpus: int | None = None,
    ) -> None:
        self.manifest = manifest
        self.model_sha256 = manifest.sha256
        self.side = side
        self.grid = manifest.grid(side)
        self._idle: deque[openvino.InferRequest] = deque()  # of requests, the last one that was used is taken next
        hint = "f32" if precision == "int8" else precision  # a quantised graph declares its own precision
        settings = {"INFERENCE_PRECISION_HINT": hint, "NUM_STREAMS": streams, "ENABLE_CPU_PINNING": False}
        if cpus is not None:  # OpenVINO sees the cores of the machine, not the quota of a container
            settings["INFERENCE_NUM_THREADS"] = cpus
        try:
            graph = read_graph(model, manifest, side)
            graph.reshape([1, side, side, 3])
            self._compiled = core().compile_model(graph, "CPU", settings)
            mapped_file.let_go(model.with_suffix(".bin"))  # the kernels have weights of their own, in their own order
        except RuntimeError as error:
            raise SetupError(f"{model}: OpenVINO cannot compile it for {side} x {side} images: {error}") from error
        self.precision: Precision = "int8" if precision == "int8" else self._actual_precision()
        shape = self._compiled.output(0).partial_shape
        if shape[1] != self.grid[0] * self.grid[1] or shape[2] != manifest.dim:
            raise SetupError(f"{model}: gives features {shape}, but its manifest says {self.grid} x {manifest.dim}")

    def extract(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Extract the features of images; the result is a copy.

        Args:
            images: uint8 [n, side, side, 3], RGB.

        Returns:
            float32 [n, patches, dim].

        Raises:
            Retry: OpenVINO failed.
        """
        try:
            features = [self._extract_one(image[None]) for image in images]
            return features[0] if len(features) == 1 else np.concatenate(features)
        except RuntimeError as error:
            raise Retry(Reason.DEVICE_FAILED, f"OpenVINO failed: {error}") from error

    def _extract_one(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        with self._request() as request:
            outputs = request.infer(image, share_inputs=True, share_outputs=True)
            return np.array(outputs[0], np.float32)

    @contextmanager
    def _request(self) -> Iterator[openvino.InferRequest]:
        """Take an idle inference request, or make one: each has memory of its own, and few threads infer at once."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            yield request
        finally:
            self._idle.append(request)

    def close(self) -> None:
        """Nothing to release."""

    def _actual_precision(self) -> Precision:
        """The precision that OpenVINO chose: f32 on a CPU without the requested one."""
        return _PRECISIONS[self._compiled.get_property("INFERENCE_PRECISION_HINT")]


def cpu_name() -> str:
    """The name of the processor, such as AMD EPYC 9R45."""
    return str(core().get_property("CPU", "FULL_DEVICE_NAME"))


def read_graph(model: Path, manifest: ModelManifest, side: int) -> openvino.Model:
    """Read a model as a graph that takes RGB, uint8 [n, side, side, 3].

    Raises:
        RuntimeError: OpenVINO cannot read or reshape it.
    """
    graph = _with_uint8_input(core().read_model(model), manifest)
    graph.reshape([-1, side, side, 3])
    return graph


def extract_floats(model: Path, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Extract features in f32 of pixels that are not whole numbers, with a model that takes uint8.

    Args:
        model: its file.
        pixels: float32 [n, side, side, 3], as the model would take them as uint8.

    Returns:
        float32 [n, patches, dim].
    """
    graph = core().read_model(model)
    (images,) = graph.get_parameters()
    images.set_element_type(openvino.Type.f32)
    graph.reshape(list(pixels.shape))
    compiled = core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(pixels)[0], np.float32)


def value_shapes(model: Path, manifest: ModelManifest, side: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the values of a model by name, for one image; those that depend on its pixels are left out.

    Raises:
        RuntimeError: OpenVINO cannot read or reshape it.
    """
    graph = core().read_model(model)
    graph.reshape([1, side, side, 3] if manifest.input == "uint8_nhwc" else [1, 3, side, side])
    outputs = [output for operation in graph.get_ops() for output in operation.outputs()]
    return {
        name: tuple(output.get_shape())
        for output in outputs
        if output.get_partial_shape().is_static
        for name in output.get_names()
    }


def save_graph(graph: openvino.Model, path: Path) -> None:
    """Write a graph as an `.xml`, and its weights as a `.bin`.

    The files are new and then renamed, because a worker may have mapped the old ones into its memory.
    """
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        xml = Path(folder) / path.name
        openvino.save_model(graph, xml, compress_to_fp16=False)
        for file in (xml.with_suffix(".bin"), xml):
            file.replace(path.with_name(file.name))


def _with_uint8_input(graph: openvino.Model, manifest: ModelManifest) -> openvino.Model:
    """Add layout and normalisation to a graph that does not contain them."""
    if manifest.input == "uint8_nhwc":
        return graph
    editor = PrePostProcessor(graph)
    editor.input().tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC"))
    editor.input().model().set_layout(openvino.Layout("NCHW"))
    steps = editor.input().preprocess().convert_element_type(openvino.Type.f32)
    steps.mean(list(manifest.mean or ())).scale(list(manifest.std or ()))
    return editor.build()
