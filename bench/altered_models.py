"""Models with a mistake, and models that round as a device does: what the check of the probe must tell apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset1 as ops

from patchline.devices import backbone, loading, openvino_backbone
from patchline.devices.model_manifest import ModelManifest, Precision
from patchline.devices.probe import Channels

_SPLIT = 2.0**13 + 1  # of a float32: Veltkamp's splitting leaves the 11 significant bits of a float16
_ROUNDED = ("Convolution", "GroupConvolution", "Add", "AvgPool", "Relu", "Clamp", "Interpolate")


@dataclass(frozen=True)
class Altered:
    """A backbone whose images or features are changed on their way; implements `backbone.Backbone`."""

    base: backbone.Backbone
    images: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] = lambda images: images
    features: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda features: features
    precision: Precision = "f32"

    @property
    def manifest(self) -> ModelManifest:
        return self.base.manifest

    @property
    def model_sha256(self) -> str:
        return self.base.model_sha256

    @property
    def source_sha256(self) -> str | None:
        return self.base.source_sha256

    @property
    def grid(self) -> tuple[int, int]:
        return self.base.grid

    @property
    def side(self) -> int:
        return self.base.side

    def extract(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.features(self.base.extract(self.images(images)))

    def close(self) -> None:
        self.base.close()


def swapped_colours(base: backbone.Backbone) -> backbone.Backbone:
    """Gets BGR."""
    return Altered(base, images=lambda images: np.ascontiguousarray(images[..., ::-1]))


def nchw_read_as_nhwc(base: backbone.Backbone) -> backbone.Backbone:
    """Gives [n, dim, patches], in memory that is read as [n, patches, dim]."""
    return Altered(base, features=lambda f: np.ascontiguousarray(f.transpose(0, 2, 1)).reshape(f.shape))


def without_pooling(folder: Path, path: Path, manifest: ModelManifest, side: int) -> backbone.Backbone:
    """Lacks the 3x3 mean."""

    def edit(graph: openvino.Model) -> None:
        for operation in graph.get_ops():
            if operation.get_type_name() == "AvgPool":
                operation.output(0).replace(operation.input_value(0))

    return _compile(_edited(folder, path, "unpooled", edit), manifest, side)


def wrongly_normalised(
    folder: Path,
    path: Path,
    manifest: ModelManifest,
    side: int,
    right: tuple[Channels, Channels],
    wrong: tuple[Channels, Channels],
    precision: Precision = "f32",
) -> backbone.Backbone:
    """Normalises with the wrong mean and standard deviation.

    Args:
        folder: for a model file, if the model normalises by itself.
        path: of the model.
        manifest: of the model.
        side: of the image.
        right: the mean and the standard deviation of the model; one for all channels, if it normalises by itself.
        wrong: those that it gets.
        precision: f16 is simulated.
    """
    if manifest.mean is not None:
        manifest = manifest.model_copy(update={"mean": wrong[0], "std": wrong[1]})
    else:
        path = _normalised_inside(folder, path, right, wrong)
    if precision == "f16":
        return rounded_to_f16(folder, path, manifest, side)
    return loading.compile_model(path, manifest, side, backbone.CPU, streams=1, precision=precision)


def _normalised_inside(
    folder: Path, path: Path, right: tuple[Channels, Channels], wrong: tuple[Channels, Channels]
) -> Path:
    """A model file that normalises its pixels by itself, and wrongly."""
    factor = np.float32(right[1][0] / wrong[1][0])
    offset = np.float32(right[0][0] - factor * wrong[0][0])

    def edit(graph: openvino.Model) -> None:
        (cast,) = (operation for operation in graph.get_ops() if _takes_pixels(operation))
        users = cast.output(0).get_target_inputs()
        scaled = ops.add(ops.multiply(cast, ops.constant(factor)), ops.constant(offset))
        for user in users:
            user.replace_source_output(scaled.output(0))

    return _edited(folder, path, "normalised", edit)


def rounded_to_f16(folder: Path, path: Path, manifest: ModelManifest, side: int) -> backbone.Backbone:
    """Has the weights of float16, and rounds the result of each operation to the bits of a float16."""

    def edit(graph: openvino.Model) -> None:
        for operation in graph.get_ops():
            if operation.get_type_name() in _ROUNDED:
                _round_output(operation)

    base = _compile(_edited(folder, path, "f16", edit, compress_to_fp16=True), manifest, side)
    return Altered(base, features=lambda features: features.astype(np.float16).astype(np.float32), precision="f16")


def _takes_pixels(operation: openvino.Node) -> bool:
    is_cast: bool = operation.get_type_name() == "Convert" and operation.get_input_element_type(0) == openvino.Type.u8
    return is_cast


def _round_output(operation: openvino.Node) -> None:
    users = operation.output(0).get_target_inputs()
    split = ops.multiply(operation, ops.constant(np.float32(_SPLIT)))
    rounded = ops.subtract(split, ops.subtract(split, operation))
    for user in users:
        user.replace_source_output(rounded.output(0))


def _edited(
    folder: Path, path: Path, name: str, edit: Callable[[openvino.Model], None], compress_to_fp16: bool = False
) -> Path:
    graph = openvino_backbone.core().read_model(path)
    edit(graph)
    target = folder / f"{path.stem}-{name}.xml"
    openvino.save_model(graph, target, compress_to_fp16=compress_to_fp16)
    return target


def _compile(path: Path, manifest: ModelManifest, side: int) -> backbone.Backbone:
    return loading.compile_model(path, manifest, side, backbone.CPU, streams=1, precision="f32")
