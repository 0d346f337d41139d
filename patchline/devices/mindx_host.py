"""Run one model on one Ascend device with the vendor's SDK. A script for the SDK's own Python 3.9.

It is the only file that imports the SDK. It runs in its own process, because the SDK brings its own libraries, can
block indefinitely, and can return the result of the previous image after a timeout. So it answers one request at a
time. After any fault it reports the error and ends, and `mindx_backbone` starts a new process.

    argv: one JSON object (see `Host` in mindx_backbone)
    memory: a file descriptor; the image, followed by the features
    requests: a pipe, one byte `i` for each image in the memory
    replies: a pipe, one JSON object per line: {"ready": ...}, {"bytes": n, "dtype": ...} or {"error": ...}

It uses the standard library, numpy and the SDK only. It was written from the sources in docs/ascend.md and tested
against a stand-in, never on hardware.
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
    """The SDK failed."""


class StreamSurface:
    """StreamManagerApi (SDK 2.0.4 and later). Return codes are positive on failure, strings are bytes."""

    name = "stream"

    def __init__(self, model: str, device: int, timeout_ms: int) -> None:
        import MxpiDataType_pb2
        import StreamManagerApi

        api = StreamManagerApi
        self._api, self._types, self._timeout_ms = api, MxpiDataType_pb2, timeout_ms
        self._manager = api.StreamManagerApi()
        _require_zero(self._manager.InitManager(), "InitManager (does this user own the files of the SDK?)")
        pipeline = json.dumps(_pipeline(model, device)).encode()
        _require_zero(self._manager.CreateMultipleStreams(pipeline), "CreateMultipleStreams")

    def infer(self, image: Any) -> Any:
        """uint8 [1, side, side, 3] -> the features as bytes, and their dtype."""
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
        packages = self._types.MxpiTensorPackageList()
        packages.ParseFromString(result.metadataVec[0].serializedMetadata)
        if len(packages.tensorPackageVec) != 1 or len(packages.tensorPackageVec[0].tensorVec) != 1:
            raise SdkError("the result is not one tensor")
        tensor = packages.tensorPackageVec[0].tensorVec[0]
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
        """uint8 [1, side, side, 3] -> the features as bytes, and their dtype."""
        outputs = self._model.infer([self._tensor(np.ascontiguousarray(image))])
        if len(outputs) != 1:
            raise SdkError(f"infer gave {len(outputs)} outputs, not one")
        outputs[0].to_host()
        # Copy: the output of a static-batch model is a buffer of the model, which the next image overwrites.
        features = np.array(outputs[0])
        return features.tobytes(), str(features.dtype)


def choose_surface(setting: str) -> Any:
    """The class for `stream` or `base`; for `auto`, the first one that can be imported."""
    surfaces = {"stream": ("StreamManagerApi", StreamSurface), "base": ("mindx.sdk", BaseSurface)}
    for name in ("stream", "base") if setting == "auto" else (setting,):
        module, surface = surfaces[name]
        try:
            __import__(module)
            return surface
        except ImportError as error:
            missing = error
    raise SdkError(f"the MindX SDK cannot be imported ({missing}): check MX_SDK_HOME, or run set_env.sh")


def main() -> None:
    """Answer requests until their pipe closes or the SDK fails."""
    request = json.loads(sys.argv[1])
    replies = os.fdopen(request["replies_fd"], "w")
    try:
        memory = mmap.mmap(request["memory_fd"], request["memory_bytes"])
        shape = (1, request["side"], request["side"], 3)
        image = np.frombuffer(memory, np.uint8, int(np.prod(shape))).reshape(shape)
        surface = choose_surface(request["surface"])(request["model"], request["device"], request["timeout_ms"])
        _send_reply(replies, {"ready": surface.name})
        while os.read(request["requests_fd"], 1) == b"i":
            features, dtype = surface.infer(image)
            if image.nbytes + len(features) > request["memory_bytes"]:
                raise SdkError(f"the result has {len(features)} bytes, more than expected")
            memory[image.nbytes : image.nbytes + len(features)] = features
            _send_reply(replies, {"bytes": len(features), "dtype": dtype})
    except Exception as error:  # noqa: BLE001 - report any error and end
        _send_reply(replies, {"error": f"{type(error).__name__}: {error}"})
        os._exit(1)
    os._exit(0)  # threads of the SDK must not keep the process alive


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


def _require_zero(code: int, call: str) -> None:
    if code != 0:
        raise SdkError(f"{call} returned {code}")


def _send_reply(replies: Any, document: Any) -> None:
    replies.write(json.dumps(document) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
