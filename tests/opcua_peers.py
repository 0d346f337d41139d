"""OPC UA servers and clients for tests that are not ours: PLCs of asyncua and node-opcua, and a PLC's program.

The scripts in tests/opcua are node-opcua, a second implementation of OPC UA. `npm ci --prefix tests/opcua` installs it.
"""

import asyncio
import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from asyncua import Client, Server, ua

from patchline.plc import opcua_model
from patchline.plc.loop_thread import LoopThread
from patchline.plc.opcua_client import OpcUaClient, WordArray
from patchline.plc.opcua_security import OpcUaSecurity
from patchline.plc.register_map import Layout, Record
from patchline.plc.words import PlcError

NAMES = ('"Patchline"."gate"', '"Patchline"."plc"')
HERE = Path(__file__).parent / "opcua"
ANSWER_S = 120
USER, PASSWORD = "plc", "Gr\u00fcn-7"


def needs_node():
    """Skip the test without node-opcua. In CI it is there."""
    if shutil.which("node") is None or not (HERE / "node_modules").exists():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs `npm ci --prefix tests/opcua`")


def node_plc(port, folder, size, *secure):
    """Return the command of a PLC of node-opcua."""
    needs_node()
    return ["node", str(HERE / "plc.mjs"), str(port), str(size), str(folder), *map(str, secure)]


def asyncua_plc(port, folder, size):
    """Return the command of a PLC of asyncua, which knows no IndexRange."""
    return [sys.executable, "-m", "tests.opcua_peers", str(port), str(folder), str(size)]


def client(port, size, namespace, security=None, **settings):
    """Return our client for such a PLC."""
    arrays = [WordArray(f"ns={namespace};s={name}", size // 2 * place) for place, name in enumerate(NAMES)]
    settings = {"timeout_s": 3} | settings  # a handshake takes longer than 0.2 s on a busy machine
    return OpcUaClient(f"opc.tcp://127.0.0.1:{port}/", arrays, security, **settings)


async def serve(port, folder, size):
    """Serve the two arrays of a PLC until the process is killed."""
    server = Server()
    await server.init(folder / "address_space")  # kept, for the next start takes seconds without
    server.set_endpoint(f"opc.tcp://127.0.0.1:{port}/")
    server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    index = await server.register_namespace("urn:plc")
    for name in NAMES:
        zeros = ua.Variant([0] * (size // 2), ua.VariantType.UInt16)
        variable = await server.nodes.objects.add_variable(ua.NodeId(name, index), name, zeros)
        await variable.set_writable()
    async with server:
        await asyncio.Event().wait()


def certificate(folder, name):
    """Make a certificate and its key by the command of docs/security.md. Return their paths."""
    lines = Path("docs/security.md").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("    openssl req -x509"))
    command = "\n".join(lines[start : start + 4]).replace("gate", name)
    subprocess.run(["sh", "-c", command], cwd=folder, check=True, capture_output=True)
    return folder / f"{name}.pem", folder / f"{name}.key"


def security(folder, own, *peers, password=PASSWORD):
    """Return the files of `own` that trust the certificates of `peers`."""
    file = folder / f"{own}.password"
    file.write_text(password)
    trusted = tuple(folder / f"{peer}.pem" for peer in peers)
    return OpcUaSecurity(folder / f"{own}.pem", folder / f"{own}.key", trusted, USER, file)


class Poller:
    """A PLC's program, of node-opcua, that uses our server after `login`. See tests/opcua/poller.mjs."""

    def __init__(self):
        needs_node()
        self._process = subprocess.Popen(
            ["node", HERE / "poller.mjs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.answers, self.messages = queue.Queue(), queue.Queue()
        self._reader = threading.Thread(target=self._sort, daemon=True)
        self._reader.start()

    def login(self, port, folder, *secure):
        """Begin a session with a server, and end the one before. Return the first answer."""
        words = [f"opc.tcp://127.0.0.1:{port}/patchline", *map(str, (folder, *secure))]
        answer = self.ask(login=words)
        self.messages = queue.Queue()
        return answer

    def ask(self, **request):
        """Return the answer to a request."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self.answers.get(timeout=ANSWER_S)

    def read(self, *names):
        """Return values, all read at once."""
        return self.ask(read=names)["values"]

    def write(self, *items):
        """Write (name, type, value) at once. Return the statuses."""
        return self.ask(write=items)["statuses"]

    def close(self):
        """End the session and the process."""
        self._process.stdin.close()
        self._process.wait(ANSWER_S)
        self._reader.join()
        self._process.stdout.close()

    def _sort(self):
        for line in self._process.stdout:
            if line.startswith("{"):
                message = json.loads(line)
                (self.messages if {"changed", "event"} & message.keys() else self.answers).put(message)


class TypedWords:
    """A PLC's view of our server as words: it reads and writes variables with their types, through asyncua."""

    def __init__(self, port, layout: Layout):
        self._places = opcua_model.places(layout)
        self._client = Client(f"opc.tcp://127.0.0.1:{port}/patchline", timeout=ANSWER_S)
        self._thread = LoopThread("typed-words")
        self._thread.run(self._client.connect(), ANSWER_S)

    def read(self, start, count):
        """Return words, all read at once."""
        fields = list(self._fields(start, count))
        items = [ua.ReadValueId(node, ua.AttributeIds.Value) for _, _, node in fields]
        answers = self._run(self._client.uaclient.session.read(ua.ReadParameters(NodesToRead=items)))
        words = {}
        for (first, field, _), answer in zip(fields, answers, strict=True):
            packed = Record((field,)).pack({field.name: answer.Value.Value})
            words |= {first + place: word for place, word in enumerate(packed)}
        return tuple(words[start + place] for place in range(count))

    def write(self, start, words):
        """Write whole fields."""
        items = []
        for first, field, node in self._fields(start, len(words)):
            values = Record((field,)).unpack(words[first - start : first - start + field.words])
            value = ua.DataValue(ua.Variant(values[field.name], opcua_model.TYPES[field.kind]))
            items.append(ua.WriteValue(node, ua.AttributeIds.Value, None, value))
        for status in self._run(self._client.uaclient.session.write(ua.WriteParameters(NodesToWrite=items))):
            status.check()

    def close(self):
        """End the session."""
        with contextlib.suppress(TimeoutError):
            self._thread.run(self._client.disconnect(), ANSWER_S)
        self._thread.close()

    def _fields(self, start, count):
        for place in self._places:
            for field, node in opcua_model.nodes_of(place, 2):
                first = place.first + place.record.offset(field.name)
                if first < start + count and start < first + field.words:
                    yield first, field, node

    def _run(self, coroutine):
        try:
            return self._thread.run(coroutine, ANSWER_S)
        except ua.UaError as error:
            raise PlcError(str(error)) from error


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
