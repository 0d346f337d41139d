"""mindx.sdk, as docs/ascend.md describes it: Tensor and base."""

from types import SimpleNamespace

import numpy as np
import standin_device

_initialised = []


class Tensor:
    def __init__(self, array):
        if not array.flags.c_contiguous:
            raise RuntimeError("the array is not contiguous")
        self._array = array

    def to_host(self):
        """Do nothing: the array stays the buffer of the model."""

    def __array__(self, dtype=None, copy=None):
        return np.array(self._array, dtype=dtype, copy=copy)


class _Model:
    def __init__(self, path, deviceId=0):
        if not _initialised:
            raise RuntimeError("mx_init was not called")
        self._chip = standin_device.Chip(path)

    def infer(self, tensors):
        fault = standin_device.next_fault()
        if fault in ("empty", "code", "send"):
            return []
        if fault == "late":
            raise RuntimeError("infer failed, 507014")
        buffer = self._chip.compute(np.array(tensors[0]).tobytes())
        output = Tensor(buffer)
        output._array = buffer.ravel()[:-512] if fault == "size" else buffer
        return [output]


base = SimpleNamespace(mx_init=lambda: _initialised.append(True), model=_Model)
