"""Runs one model on one Ascend device through the vendor's SDK. A script for the SDK's own Python 3.9.

It is the only file that imports the SDK, and has a process of its own, because the SDK brings its own libraries, can
block for ever, and after a timeout can hand out the result of the image before. So it answers one request at a time,
and after any fault it says so and ends: `backbone_mindx` starts another one.

    argv: one JSON object (see `Request` in backbone_mindx)
    memory: a file descriptor; the image first, the features behind it
    requests: a pipe, one byte `i` for each image that lies in the memory
    replies: a pipe, one JSON object a line: {"ready": ...}, {"bytes": n, "dtype": ...} or {"error": ...}

Python 3.9; standard library, numpy and the SDK alone. Confirmed on no hardware; written from the sources named in
docs/ascend.md and tested against a stand-in.
"""

import json
import mmap
import os
import sys
from typing import Any

import numpy as np

STREAM = b"patchline"
SOURCE, INFERENCE, SINK = b"appsrc0", b"mxpi_tensorinfer0", b"appsink0"
FLOAT32, FLOAT16, UINT8 = 0, 1, 4  # TensorDataType.h of the SDK
DTYPES = {FLOAT32: "float32", FLOAT16: "float16"}


class SdkError(Exception):
    """The SDK said that something failed."""


class StreamSurface:
    """StreamManagerApi (SDK 2.0.4 and later): return codes are positive on failure, every string is bytes."""

    name = "stream"

    def __init__(self, model: str, device: int, timeout_ms: int) -> None:
        import MxpiDataType_pb2
        import StreamManagerApi

        api = StreamManagerApi
        self._api, self._types, self._timeout_ms = api, MxpiDataType_pb2, timeout_ms
        self._manager = api.StreamManagerApi()
        _require_zero(self._manager.InitManager(), "InitManager: are the SDK's files owned by this user?")
        pipeline = json.dumps(_pipeline(model, device)).encode()
        _require_zero(self._manager.CreateMultipleStreams(pipeline), "CreateMultipleStreams")

    def infer(self, image: Any) -> Any:
        """uint8 [1, side, side, 3] -> bytes of the features and their dtype."""
        tensors = self._types.MxpiTensorPackageList()
        tensor = tensors.tensorPackageVec.add().tensorVec.add()
        tensor.tensorShape.extend(image.shape)
        tensor.tensorDataType = UINT8
        tensor.dataStr = image.tobytes()
        tensor.tensorDataSize = image.nbytes
        outgoing = self._api.MxProtobufIn()
        outgoing.key, outgoing.type = SOURCE, b"MxTools.MxpiTensorPackageList"
        outgoing.protobuf = tensors.SerializeToString()
        vector = self._api.InProtobufVector()
        vector.push_back(outgoing)
        _require_zero(self._manager.SendProtobuf(STREAM, SOURCE, vector), "SendProtobuf")
        return self._result()

    def _result(self) -> Any:
        keys = self._api.StringVector()
        keys.push_back(INFERENCE)
        result = self._manager.GetResult(STREAM, SINK, keys, self._timeout_ms)
        _require_zero(result.errorCode, "GetResult")
        if result.metadataVec.size() != 1:
            raise SdkError(f"GetResult gave {result.metadataVec.size()} results, not one")
        _require_zero(result.metadataVec[0].errorCode, "GetResult of the tensor")
        found = self._types.MxpiTensorPackageList()
        found.ParseFromString(result.metadataVec[0].serializedMetadata)
        if len(found.tensorPackageVec) != 1 or len(found.tensorPackageVec[0].tensorVec) != 1:
            raise SdkError("the result is not one tensor")
        tensor = found.tensorPackageVec[0].tensorVec[0]
        return tensor.dataStr, _dtype(tensor.tensorDataType)


class BaseSurface:
    """mindx.sdk.base (SDK 3.0 and later)."""

    name = "base"

    def __init__(self, model: str, device: int, timeout_ms: int) -> None:
        from mindx.sdk import Tensor, base

        self._tensor = Tensor
        _require_zero(base.mx_init() or 0, "mx_init")
        self._model = base.model(model, deviceId=device)

    def infer(self, image: Any) -> Any:
        """uint8 [1, side, side, 3] -> bytes of the features and their dtype."""
        outputs = self._model.infer([self._tensor(np.ascontiguousarray(image))])
        if len(outputs) != 1:
            raise SdkError(f"infer gave {len(outputs)} outputs, not one")
        outputs[0].to_host()
        # A copy: the output of a static-batch model is the model's own buffer, which the next image overwrites.
        features = np.array(outputs[0])
        return features.tobytes(), str(features.dtype)


def choose_surface(wanted: str) -> Any:
    """`stream` or `base`; with `auto` the first that can be imported."""
    surfaces = {"stream": ("StreamManagerApi", StreamSurface), "base": ("mindx.sdk", BaseSurface)}
    for name in ("stream", "base") if wanted == "auto" else (wanted,):
        module, surface = surfaces[name]
        try:
            __import__(module)
            return surface
        except ImportError as error:
            missing = error
    raise SdkError(f"the MindX SDK cannot be imported ({missing}): is MX_SDK_HOME right, has set_env.sh run?")


def main() -> None:
    """Serve until the pipe of requests closes, or the SDK fails."""
    request = json.loads(sys.argv[1])
    replies = os.fdopen(request["replies_fd"], "w")
    try:
        memory = mmap.mmap(request["memory_fd"], request["memory_bytes"])
        shape = (1, request["side"], request["side"], 3)
        image = np.frombuffer(memory, np.uint8, int(np.prod(shape))).reshape(shape)
        surface = choose_surface(request["surface"])(request["model"], request["device"], request["timeout_ms"])
        _say(replies, {"ready": surface.name})
        while os.read(request["requests_fd"], 1) == b"i":
            features, dtype = surface.infer(image)
            if image.nbytes + len(features) > request["memory_bytes"]:
                raise SdkError(f"the result has {len(features)} bytes, more than expected")
            memory[image.nbytes : image.nbytes + len(features)] = features
            _say(replies, {"bytes": len(features), "dtype": dtype})
    except Exception as error:  # noqa: BLE001 - whatever it is: say it and end, the other side starts anew
        _say(replies, {"error": f"{type(error).__name__}: {error}"})
        os._exit(1)
    os._exit(0)  # the SDK's own threads must not keep the process


def _pipeline(model: str, device: int) -> Any:
    properties = {"dataSource": SOURCE.decode(), "modelPath": model, "outputDeviceId": "-1", "waitingTime": "1"}
    return {
        STREAM.decode(): {
            "stream_config": {"deviceId": str(device)},
            SOURCE.decode(): {"factory": "appsrc", "props": {}, "next": INFERENCE.decode()},
            INFERENCE.decode(): {"factory": "mxpi_tensorinfer", "props": properties, "next": SINK.decode()},
            SINK.decode(): {"factory": "appsink"},
        }
    }


def _dtype(number: int) -> str:
    if number not in DTYPES:
        raise SdkError(f"the features have data type {number}, not float16 or float32")
    return DTYPES[number]


def _require_zero(code: int, what: str) -> None:
    if code != 0:  # positive on failure
        raise SdkError(f"{what} returned {code}")


def _say(replies: Any, document: Any) -> None:
    replies.write(json.dumps(document) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
