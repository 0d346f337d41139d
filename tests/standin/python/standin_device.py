"""The chip and the faults, shared by both APIs of the stand-in."""

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path

import numpy as np
import openvino
import standin_machine


class Chip:
    """One loaded `.om`."""

    def __init__(self, path, device):
        om = json.loads(Path(path).read_text())
        standin_machine.occupy(device, Path(om["model"]).stat().st_size // 1_000_000)
        self.device = device
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
        self.input_type = np.float32 if takes_floats else np.uint8

    @property
    def input_shape(self):
        """That of the network, or [1, side, side, 3] if AIPP makes it."""
        return self.shape if self._aipp is None else (1, self.shape[2], self.shape[2], 3)

    @property
    def input_bytes(self):
        return int(np.prod(self.shape)) * np.dtype(self.input_type).itemsize

    def run(self, content):
        """Move an image to the chip, compute, and move the features back."""
        standin_machine.transfer()
        with standin_machine.computing(self.device):
            features = self.compute(content)
        standin_machine.transfer()
        return features

    def compute(self, content):
        """uint8 bytes in NHWC, or float32 bytes in NCHW -> the buffer of the model, with the features."""
        image = np.frombuffer(content, self.input_type)
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


def next_fault(device):
    """The fault of this image on this device, or None. A fault `late@1` waits for an image on device 1."""
    folder = os.environ.get("STANDIN_FAULTS")
    if folder is None:
        return None
    with _locked(Path(folder)) as folder:
        fault = _take_fault(folder, device)
    if fault == "die":
        os._exit(139)
    if fault == "stuck":
        os.open(os.environ["STANDIN_STUCK_FILE"], os.O_RDONLY)  # sleeps in the kernel, and cannot be killed
    if fault == "block":
        time.sleep(3600)
    return fault


def _take_fault(folder, device):
    count = int((folder / "count").read_text()) + 1 if (folder / "count").exists() else 1
    _write(folder / "count", str(count))
    faults = (folder / "faults").read_text().split()
    if not faults or count % int((folder / "every").read_text()):
        return None
    fault, _, number = faults[0].partition("@")
    if number not in ("", str(device)):
        return None
    _write(folder / "faults", "\n".join(faults[1:]))
    with (folder / "happened").open("a") as log:
        log.write(fault + "\n")
    return fault


def _write(path, text):
    """Write a file at once: a worker may kill this process at any time."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


@contextlib.contextmanager
def _locked(folder):
    """The folder of the faults, for one process at a time."""
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
