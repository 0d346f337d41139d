"""StreamManagerApi, as docs/ascend.md describes it."""

import json
import time
from types import SimpleNamespace

import MxpiDataType_pb2
import standin_device
import standin_files
import standin_machine

OK, FAILURE, INVALID_PARAM, TIMEOUT, NOT_EXIST, INVALID_CONFIG = 0, 1001, 1004, 1001, 6002, 6005
CREATE_FAILED = 6004


class _Vector(list):
    def push_back(self, item):
        self.append(item)

    def size(self):
        return len(self)


class StringVector(_Vector):
    def push_back(self, item):
        _require_bytes(item)
        super().push_back(item)


class InProtobufVector(_Vector):
    pass


class MxProtobufIn:
    key = type = protobuf = b""


class StreamManagerApi:
    def __init__(self):
        self._initialised = False
        self._chips = {}
        self._hangs = False
        self._results = []  # the sink: first in, first out, without ids

    def InitManager(self):
        code = standin_files.check_sdk()
        self._initialised = code == OK
        return code

    def CreateMultipleStreams(self, pipeline):
        _require_bytes(pipeline)
        if not self._initialised:
            return -1  # APP_PYTHON_INIT_ERROR, the only negative one
        try:
            ((name, stream),) = json.loads(pipeline).items()
        except ValueError:
            return INVALID_CONFIG
        elements = [element for key, element in stream.items() if key != "stream_config"]
        values = [stream["stream_config"]["deviceId"], *(v for e in elements for v in e.get("props", {}).values())]
        if not all(isinstance(value, str) for value in values):
            return INVALID_CONFIG
        (model,) = [element["props"]["modelPath"] for element in elements if "modelPath" in element.get("props", {})]
        try:
            self._chips[name.encode()] = standin_device.Chip(model, int(stream["stream_config"]["deviceId"]))
        except standin_machine.OutOfMemoryError:
            return CREATE_FAILED
        return OK

    def SendProtobuf(self, stream, element, vector):
        _require_bytes(stream, element, vector[0].key, vector[0].type, vector[0].protobuf)
        if stream not in self._chips:
            return NOT_EXIST
        self._fault = standin_device.next_fault(self._chips[stream].device)
        if self._fault == "send":
            return INVALID_PARAM
        tensors = MxpiDataType_pb2.MxpiTensorPackageList()
        tensors.ParseFromString(vector[0].protobuf)
        content = tensors.tensorPackageVec[0].tensorVec[0].dataStr
        chip = self._chips[stream]
        if self._fault == "sync":  # the thread of the plugin waits for the chip without a time limit
            self._hangs = True
        if self._hangs:
            return OK
        if len(content) != chip.input_bytes:  # only the size in bytes is checked
            return INVALID_PARAM
        buffer = chip.run(content)
        features = buffer.tobytes()
        if self._fault == "size":
            features = features[:-1024]
        self._results.append(_tensor(features, {"float32": 0, "float16": 1}[str(buffer.dtype)]))
        return OK

    def GetResult(self, stream, element, keys, timeout_ms=3000):
        _require_bytes(stream, element, *keys)
        if self._fault == "late" or self._hangs:
            # The result comes after the timeout, stays in the sink, and the next call gets it.
            time.sleep(timeout_ms / 1000)
            return _result(TIMEOUT)
        if self._fault == "code":
            return _result(FAILURE)
        if self._fault == "empty":
            return _result(OK)
        return _result(OK, self._results.pop(0)) if self._results else _result(TIMEOUT)


def _tensor(features, data_type):
    packages = MxpiDataType_pb2.MxpiTensorPackageList()
    tensor = packages.tensorPackageVec.add().tensorVec.add()
    tensor.dataStr, tensor.tensorDataType, tensor.tensorDataSize = features, data_type, len(features)
    return packages.SerializeToString()


def _result(code, *contents):
    items = _Vector(SimpleNamespace(errorCode=OK, serializedMetadata=content) for content in contents)
    return SimpleNamespace(errorCode=code, errorMsg=b"" if code == OK else b"failed", metadataVec=items)


def _require_bytes(*values):
    for value in values:
        if not isinstance(value, bytes):
            raise TypeError(f"expected bytes, not {type(value).__name__}")
