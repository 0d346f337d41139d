"""The chip and the faults, shared by both APIs of the stand-in."""

import json
import os
import time
from pathlib import Path

import numpy as np
import openvino


class Chip:
    """One loaded `.om`."""

    def __init__(self, path):
        om = json.loads(Path(path).read_text())
        name, shape = om["input_shape"].split(":")
        self.shape = tuple(int(side) for side in shape.split(","))
        graph = openvino.Core().read_model(Path(om["model"]).read_bytes())
        graph.reshape({name: self.shape})
        self._compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self._aipp = _aipp(om["aipp"]) if om["aipp"] else None
        outputs = tuple(self._compiled.output(0).shape)
        # A static-batch model has one buffer for all results.
        self.buffer = np.zeros(outputs, {"FP16": np.float16, "FP32": np.float32}[om["output_type"]])
        takes_floats = self._aipp is None and graph.input(0).element_type == openvino.Type.f32
        self._input_type = np.float32 if takes_floats else np.uint8

    @property
    def input_bytes(self):
        return int(np.prod(self.shape)) * np.dtype(self._input_type).itemsize

    def compute(self, content):
        """uint8 bytes in NHWC, or float32 bytes in NCHW -> the buffer of the model, with the features."""
        image = np.frombuffer(content, self._input_type)
        if self._aipp is None:
            image = image.reshape(self.shape)
        else:
            side = self.shape[2]
            image = image.reshape(1, side, side, 3)
            assert (self._aipp["src_image_size_h"], self._aipp["input_format"]) == (str(side), "RGB888_U8")
            minimum = np.array([float(self._aipp[f"min_chn_{c}"]) for c in range(3)], np.float32)
            scale = np.array([float(self._aipp[f"var_reci_chn_{c}"]) for c in range(3)], np.float32)
            image = ((image - minimum) * scale).transpose(0, 3, 1, 2)
        # The chip computes in FP16, whatever the type of the output is.
        self.buffer[...] = self._compiled([np.ascontiguousarray(image)])[0].astype(np.float16)
        return self.buffer


def _aipp(text):
    lines = [line.split(":") for line in text.splitlines() if ":" in line]
    return {key.strip(): value.strip() for key, value in lines}


def next_fault():
    """The fault of this image, or None."""
    folder = os.environ.get("STANDIN_FAULTS")
    if folder is None:
        return None
    folder = Path(folder)
    count = int((folder / "count").read_text()) + 1 if (folder / "count").exists() else 1
    (folder / "count").write_text(str(count))
    faults = (folder / "faults").read_text().split()
    if not faults or count % int((folder / "every").read_text()):
        return None
    (folder / "faults").write_text("\n".join(faults[1:]))
    with (folder / "happened").open("a") as log:
        log.write(faults[0] + "\n")
    if faults[0] == "die":
        os._exit(139)
    if faults[0] == "block":
        time.sleep(3600)
    return faults[0]
