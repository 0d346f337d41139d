"""Run one model on one Ascend device with the vendor's SDK. A script for the SDK's own Python 3.9.

It is the only file that imports the SDK. It runs in its own process, because the SDK brings its own libraries, can
block indefinitely, and can return the result of the previous image after a timeout. So it answers one request at a
time. After any fault it reports the error and ends, and the worker asks for a new process.

A worker starts it as a child, with one JSON object in argv (`ChildLink` in mindx_link.py):

    memory: an inherited file descriptor; the image, followed by the features
    requests: a pipe, one byte `i` for each image in the memory
    replies: a pipe, one JSON object per line: {"ready": ...}, {"bytes": n, "dtype": ...} or {"error": ...}

Or it listens for a worker in a container, on the SDK's own system, to which this one file is copied:

    python3.9 mindx_host.py --listen /run/patchline/ascend0.sock --device 0 --models /opt/patchline/models

The listening process never uses the SDK. For each connection it starts a process of this file, which greets with
{"protocol": 1, "device": n}, receives the request and the memory (`SocketLink` in mindx_link.py), and goes on as above
with the socket in place of both pipes. The process is killed when the connection closes, so no result outlives it.

It uses the standard library and the SDK, and numpy for `mindx.sdk`. It was written from the sources in docs/ascend.md
and tested against a stand-in, never on hardware.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import json
import mmap
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

PROTOCOL = 1  # of the socket; both ends must have the same
STREAM = b"patchline"
SOURCE, INFERENCE, SINK = b"appsrc0", b"mxpi_tensorinfer0", b"appsink0"
FLOAT32, FLOAT16, UINT8 = 0, 1, 4  # TensorDataType.h of the SDK
DTYPES = {FLOAT32: "float32", FLOAT16: "float16"}  # of features
IMAGE_TYPES = {"uint8": UINT8, "float32": FLOAT32}
REQUEST_TIMEOUT_S, KILL_TIMEOUT_S, POLL_S = 10.0, 5.0, 0.05
SEARCH_PATHS = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "GST_PLUGIN_PATH")
PR_SET_PDEATHSIG = 1  # prctl(2)


class SdkError(Exception):
    """The SDK failed."""


class MismatchError(SdkError):
    """The model of the worker is not here, and will not be at its next try."""


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

    def infer(self, image: bytes, shape: Any, dtype: str) -> Any:
        """uint8 [1, side, side, 3] or float32 [1, 3, side, side] -> the features as bytes, and their dtype."""
        tensors = self._types.MxpiTensorPackageList()
        tensor = tensors.tensorPackageVec.add().tensorVec.add()
        tensor.tensorShape.extend(shape)
        tensor.tensorDataType = IMAGE_TYPES[dtype]
        tensor.dataStr = image
        tensor.tensorDataSize = len(image)
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
        import numpy
        from mindx.sdk import Tensor, base

        self._numpy, self._tensor = numpy, Tensor
        _require_zero(base.mx_init() or 0, "mx_init")
        self._model = base.model(model, deviceId=device)

    def infer(self, image: bytes, shape: Any, dtype: str) -> Any:
        """uint8 [1, side, side, 3] or float32 [1, 3, side, side] -> the features as bytes, and their dtype."""
        array = self._numpy.frombuffer(image, dtype).reshape(shape)
        outputs = self._model.infer([self._tensor(array)])
        if len(outputs) != 1:
            raise SdkError(f"infer gave {len(outputs)} outputs, not one")
        outputs[0].to_host()
        # Copy: the output of a static-batch model is a buffer of the model, which the next image overwrites.
        features = self._numpy.array(outputs[0])
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
    advice = "list the set_env.sh of CANN and of mxVision in PATCHLINE_ASCEND_SET_ENV, or source them before --listen"
    raise SdkError(f"the MindX SDK cannot be imported ({missing}): {advice}")


def main() -> None:
    """Serve the worker that started this process, or listen for one."""
    if sys.argv[1:] and sys.argv[1].startswith("{"):
        serve(json.loads(sys.argv[1]))
    else:
        listen()


def serve(request: Any) -> None:
    """Serve one worker until it closes its end or the SDK fails, then end this process."""
    replies = os.fdopen(request["replies_fd"], "w")
    try:
        if "connection" in request:
            request = _receive_request(request, replies)
        _answer_requests(request, replies)
    except Exception as error:  # noqa: BLE001 - report any error and end
        with contextlib.suppress(OSError):  # the worker may have gone
            _send_reply(replies, _describe(error))
        os._exit(1)
    os._exit(0)  # threads of the SDK must not keep the process alive


def _answer_requests(request: Any, replies: Any) -> None:
    memory = mmap.mmap(request["memory_fd"], request["memory_bytes"])
    shape, image_dtype, image_bytes = request["shape"], request["dtype"], request["image_bytes"]
    surface = choose_surface(request["surface"])(request["model"], request["device"], request["timeout_ms"])
    _send_reply(replies, {"ready": surface.name})
    while os.read(request["requests_fd"], 1) == b"i":
        features, dtype = surface.infer(memory[:image_bytes], shape, image_dtype)
        if image_bytes + len(features) > request["memory_bytes"]:
            raise SdkError(f"the result has {len(features)} bytes, more than expected")
        memory[image_bytes : image_bytes + len(features)] = features
        _send_reply(replies, {"bytes": len(features), "dtype": dtype})


def _receive_request(here: Any, replies: Any) -> Any:
    """Greet the worker at the other end of a connection, and receive its request and the shared memory."""
    _end_with(here["parent"])
    _send_reply(replies, {"protocol": PROTOCOL, "device": here["device"]})
    connection = socket.socket(fileno=here["connection"])
    connection.settimeout(REQUEST_TIMEOUT_S)
    line = b""
    descriptors: list[int] = []
    while not line.endswith(b"\n"):
        content, received, _, _ = socket.recv_fds(connection, 65_536, 1)
        if not content:
            raise SdkError("the worker closed the connection before its request")
        line += content
        descriptors += received
    connection.setblocking(True)
    request = json.loads(line)
    if len(descriptors) != 1:
        raise SdkError("the request has no shared memory")
    model = _verified_model(Path(here["models"]), request["model"], request["sha256"])
    inherited = {"memory_fd": descriptors[0], "requests_fd": connection.detach()}
    return {**request, **inherited, "model": model, "device": here["device"]}


def _verified_model(models: Path, name: str, sha256: str) -> str:
    """The path of a model by its name only: a worker cannot name other files of this system."""
    path = models / Path(name).name
    if not path.is_file():
        raise MismatchError(f"{path} is not there: copy the .om of the worker to the models of mindx_host")
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise MismatchError(f"{path} is not the model of the worker (its sha256 differs): copy the .om again")
    return str(path)


def _end_with(parent: int) -> None:
    """Make the kernel kill this process when its parent ends, even during a call that never returns."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def listen() -> None:
    """Start a process for each connection, until SIGTERM."""
    options = _parse_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        listener = _bind(options.listen, options.group)
    except (OSError, LookupError) as error:
        sys.exit(f"mindx_host: {options.listen}: {error}")
    sys.stderr.write(f"mindx_host: device {options.device} on {options.listen}\n")
    connections: list[Connection] = []
    try:
        while True:
            select.select([listener], [], [], POLL_S if connections else None)
            connections = [connection for connection in connections if not connection.is_over()]
            _accept(listener, connections, options)
    finally:
        Path(options.listen).unlink(missing_ok=True)
        for connection in connections:
            connection.end()


def _peer(connection: socket.socket) -> int:
    """The process at the other end, or 0 if it is in a container beside this one (SO_PEERCRED, unix(7))."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[0])


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run a model on an Ascend device for a worker in a container.")
    parser.add_argument("--listen", required=True, metavar="SOCKET", help="the Unix socket, such as ascend0.sock")
    parser.add_argument("--device", required=True, type=int, help="the number of the chip for the SDK")
    parser.add_argument("--models", required=True, help="the folder of the .om files")
    parser.add_argument("--group", help="whose members may use the socket, by name or number")
    parser.add_argument("--hosts", type=int, default=8, help="how many processes may use the chip at once (8)")
    return parser.parse_args()


def _bind(path: str, group: str | None) -> socket.socket:
    """A listening socket with mode 0660. It replaces the file of a process that has ended, not that of a live one."""
    lock = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)  # open until this process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError("another mindx_host listens there") from None
    with contextlib.suppress(FileNotFoundError):
        Path(path).unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o117)
    try:
        listener.bind(path)
    finally:
        os.umask(mask)
    if group is not None:
        shutil.chown(path, group=int(group) if group.isdecimal() else group)
    listener.listen()
    listener.setblocking(False)
    return listener


def _accept(listener: socket.socket, connections: list[Connection], options: argparse.Namespace) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            connection, _ = listener.accept()
            hangs = any(existing.hangs() for existing in connections)
            others = any(existing.worker != _peer(connection) for existing in connections)
            if len(connections) < options.hosts and not hangs and not others:
                connections.append(Connection(connection, options))
                continue
            with connection, contextlib.suppress(OSError):
                reason = "; ".join(sorted({existing.describe() for existing in connections}))
                connection.sendall(json.dumps({"busy": reason, "hangs": hangs}).encode() + b"\n")


class Connection:
    """The connection of one worker, and the process that serves it."""

    def __init__(self, connection: socket.socket, options: argparse.Namespace) -> None:
        self._connection = connection
        self.worker = _peer(connection)
        number = connection.fileno()
        here = {
            "connection": number,
            "replies_fd": number,
            "device": options.device,
            "models": options.models,
            "parent": os.getpid(),
        }
        command = [sys.executable, __file__, json.dumps(here)]
        self._process = subprocess.Popen(
            command,
            pass_fds=[number],
            env=_without_empty_entries(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=2,
            start_new_session=True,
        )
        self._killed = False

    def is_over(self) -> bool:
        """Whether nothing of it is left. If one end has gone, end the other."""
        if not self._killed:
            hang_up = select.poll()
            hang_up.register(self._connection, select.POLLRDHUP)
            if self._process.poll() is None and not hang_up.poll(0):
                return False
            self.end()
        return self._process.poll() is not None

    def end(self) -> None:
        """Kill the process and those that it started, wait for it within bounds, and close the connection."""
        self._killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(KILL_TIMEOUT_S)
        self._connection.close()

    def hangs(self) -> bool:
        """Whether the process was killed and does not end: its device takes no other."""
        return self._killed and self._process.poll() is None

    def describe(self) -> str:
        """Why there is no place for another one."""
        if self.hangs():
            return f"process {self._process.pid} was killed and does not end: its device hangs; restart the machine"
        return f"it serves process {self.worker}; a device has one worker, with as many models as --hosts allows"


def _without_empty_entries(environment: Any) -> Any:
    """The environment without empty entries in search paths, as the vendor's scripts leave them: the current folder."""
    paths = {name: ":".join(filter(None, environment[name].split(":"))) for name in SEARCH_PATHS if name in environment}
    return {name: value for name, value in {**environment, **paths}.items() if value or name not in paths}


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


def _describe(error: Exception) -> Any:
    return {"error": f"{type(error).__name__}: {error}", "mismatch": isinstance(error, MismatchError)}


def _send_reply(replies: Any, document: Any) -> None:
    replies.write(json.dumps(document) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
