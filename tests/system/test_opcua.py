"""OPC UA: who may begin a session, what a PLC sees of our server, and what our client asks of a PLC."""

import asyncio
import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from asyncua import Client, ua

from patchline.plc import opcua_client, opcua_server, register_map
from patchline.plc.opcua_client import OpcUaClient, WordArray
from patchline.plc.opcua_server import OpcUaServer
from patchline.plc.words import PlcError
from patchline.protocol.errors import SetupError
from patchline.services import server
from tests import opcua_peers
from tests.opcua_peers import PASSWORD, USER, Poller
from tests.proxy import Proxy
from tests.system.conftest import wait_for

SIZE = 64
LAYOUT = register_map.Layout(gate=0, plc=1000, slots=4)
SLOT = "ResultManagement.Results.01"
START_S = 120
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A folder with the certificates of a gate, of its PLC and of a stranger."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("gate", "plc", "stranger"):
        opcua_peers.certificate(folder, name)
    return folder


@pytest.fixture(scope="module")
def open_server():
    with contextlib.closing(OpcUaServer("127.0.0.1", 0, LAYOUT, timeout_s=5)) as served:
        yield served


@pytest.fixture(scope="module")
def secure_server(certificates):
    files = opcua_peers.security(certificates, "gate", "plc")
    with contextlib.closing(OpcUaServer("127.0.0.1", 0, LAYOUT, files, timeout_s=5)) as served:
        yield served


@contextlib.contextmanager
def _node_plc(folder, *secure):
    """A PLC of node-opcua: its port and what it prints."""
    (port,) = server.free_ports(1)
    command = opcua_peers.node_plc(port, folder, SIZE, *secure)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        _line(process, "ready")
        yield port, process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _line(process, start):
    """Return the next line that begins so."""
    return next(line.strip() for line in process.stdout if line.startswith(start))


@pytest.fixture(scope="module")
def secure_plc(certificates):
    with _node_plc(
        certificates / "plc pki", *(certificates / name for name in ("plc.pem", "plc.key", "gate.pem")), USER, PASSWORD
    ) as plc:
        yield plc


def _result(number, sequence, code=register_map.Code.PASS):
    result = register_map.Result.ACCEPT if code == register_map.Code.PASS else register_map.Result.REJECT
    values = {"number": number, "result": result, "code": code, "score": 0.25, "count": -7, "sequence": sequence}
    return register_map.RESULT.pack(values)


# What a PLC of another make sees of our server


@pytest.fixture(scope="module")
def program():
    """A process that begins a session for each test, since its start takes seconds."""
    with contextlib.closing(Poller()) as program:
        yield program


@pytest.fixture
def poller(program, open_server, tmp_path):
    assert program.login(open_server.port, tmp_path) == {"connected": True}
    return program


def test_a_plc_reads_a_result_by_name_and_with_its_type(open_server, poller):
    open_server.write(LAYOUT.result(5), _result(5, 11))
    names = [f"{SLOT}.{name}" for name in ("number", "result", "code", "score", "count", "sequence")]
    assert poller.read(*names) == [5, 1, 1, 0.25, -7, 11]
    score = poller.ask(describe=f"{SLOT}.score")
    assert score == {
        "type": "ns=0;i=10",
        "description": "Score of the image. Not a number if there is none.",
        "writable": False,
    }
    assert poller.ask(describe="Plc.count") == {
        "type": "ns=0;i=6",
        "description": "Encoder count now.",
        "writable": True,
    }


def test_a_plc_writes_its_area_and_the_gate_reads_it(open_server, poller):
    trigger = "Plc.Triggers.02"
    statuses = poller.write(
        [f"{trigger}.number", "UInt32", 70_000], [f"{trigger}.count", "Int32", -5], [f"{trigger}.sequence", "UInt16", 6]
    )
    assert [status.split()[0] for status in statuses] == ["Good"] * 3
    values = register_map.TRIGGER.unpack(open_server.read(LAYOUT.trigger(6), register_map.TRIGGER.words))
    assert values == {"number": 70_000, "count": -5, "category": 0, "sequence": 6}


@pytest.mark.parametrize(
    ("item", "status"),
    [(["Plc.heartbeat", "Int16", 4], "BadTypeMismatch"), (["Gate.state", "UInt16", 1], "BadNotWritable")],
)
def test_a_write_with_one_wrong_value_changes_nothing(open_server, poller, item, status):
    before = open_server.read(LAYOUT.plc, register_map.PLC_HEADER.words)
    [answer] = poller.write(["Plc.count", "Int32", before[5] + 1], item)
    assert status in answer
    assert open_server.read(LAYOUT.plc, register_map.PLC_HEADER.words) == before


def test_states_are_those_of_machine_vision(open_server, poller):
    names = ["VisionStateMachine.CurrentState", "VisionStateMachine.AutomaticModeStateMachine.CurrentState"]
    seen = []
    for state in (register_map.GateState.READY, register_map.GateState.BLIND):
        open_server.write(LAYOUT.gate, register_map.GATE_HEADER.pack({"version": 1, "state": state}))
        seen.append(poller.read(*names))
    assert seen == [["Operational", "Ready"], ["Error", "Initialized"]]


def test_each_new_result_is_an_event_and_a_change_and_a_repeated_one_is_none(open_server, poller):
    fields = ["SourceName", "2:number", "2:code", "2:ResultState", "2:sequence"]
    assert poller.ask(events=fields) == {"watching": 1}
    open_server.write(LAYOUT.result(9), _result(9, 21, register_map.Code.FAIL))
    open_server.write(LAYOUT.result(9), _result(9, 21, register_map.Code.FAIL))
    open_server.write(LAYOUT.result(10), _result(10, 22, register_map.Code.NO_VERDICT))
    events = [poller.messages.get(timeout=START_S)["event"] for _ in range(2)]
    assert events == [["ResultManagement", 9, 3, 1, 21], ["ResultManagement", 10, 6, 3, 22]]
    assert poller.read("ResultManagement.LastResult.number", "ResultManagement.LastResult.sequence") == [10, 22]


def test_a_subscriber_gets_the_sequence_number_of_a_slot_last(open_server, poller):
    names = [f"{SLOT}.{name}" for name in ("sequence", "number", "code")]
    assert poller.ask(watch=names) == {"watching": 3}
    for _ in names:
        poller.messages.get(timeout=START_S)  # the values of now
    open_server.write(LAYOUT.result(13), _result(13, 31, register_map.Code.REVIEW))
    changed = [poller.messages.get(timeout=START_S)["changed"] for _ in names]
    assert changed[-1] == f"{SLOT}.sequence"


def test_a_plc_that_reads_while_results_are_written_never_sees_half_of_one(open_server, poller):
    ended = threading.Event()

    def write(sequence):
        open_server.write(LAYOUT.result(1), _result(1 + 4 * sequence, sequence))

    def write_more():
        sequence = 1
        while not ended.is_set():
            sequence = register_map.next_sequence(sequence)
            write(sequence)

    write(1)
    writer = threading.Thread(target=write_more)
    writer.start()
    try:
        names = [f"{SLOT}.number", f"{SLOT}.sequence"]
        seen, limit = [], time.monotonic() + START_S
        while len(seen) < 200 or len(set(seen)) <= 20:
            assert time.monotonic() < limit
            seen.append(tuple(poller.read(*names)))
    finally:
        ended.set()
        writer.join()
    assert [pair for pair in seen if pair[0] != 1 + 4 * pair[1]] == []


# Who may begin a session with our server


def _login(program, port, folder, own, password=PASSWORD):
    files = (folder / f"{own}.pem", folder / f"{own}.key", folder / "gate.pem")
    return program.login(port, folder / f"{own} pki", *files, USER, password)


def test_a_plc_with_its_certificate_and_password_is_served(program, secure_server, certificates):
    assert _login(program, secure_server.port, certificates, "plc") == {"connected": True}
    assert program.write(["Plc.heartbeat", "UInt16", 9])[0].startswith("Good")


@pytest.mark.parametrize(("own", "password"), [("plc", "wrong"), ("stranger", PASSWORD)])
def test_a_wrong_password_or_an_unknown_certificate_is_refused(program, secure_server, certificates, own, password):
    assert "BadUserAccessDenied" in _login(program, secure_server.port, certificates, own, password)["error"]


def test_a_connection_without_a_trusted_certificate_gets_no_user(certificates):
    users = opcua_server._Users(opcua_peers.security(certificates, "gate", "plc").load())
    assert users.get_user(None, USER, PASSWORD, certificate=None) is None


# What our client asks of a PLC


def test_the_client_reaches_a_secure_plc_and_states_a_wrong_password_or_certificate(secure_plc, certificates):
    port, process = secure_plc
    right = opcua_peers.security(certificates, "gate", "plc")
    with contextlib.closing(opcua_peers.client(port, SIZE, 1, right, timeout_s=5)) as memory:
        memory.write(3, [1, 2, 3])
        assert memory.read(2, 4) == (0, 1, 2, 3)
    assert _line(process, "session of") == f"session of {opcua_client.SESSION_S * 1000:.0f} ms"
    assert _error(port, opcua_peers.security(certificates, "gate", "stranger")).endswith(
        "the certificate of the server is not in peer_files, or has expired"
    )
    assert "it may not trust our certificate" in _error(port, opcua_peers.security(certificates, "stranger", "plc"))
    wrong_password = _error(port, opcua_peers.security(certificates, "gate", "plc", password="wrong"))
    assert "BadUserAccessDenied" in wrong_password or "BadIdentityToken" in wrong_password


def _error(port, security):
    with (
        contextlib.closing(opcua_peers.client(port, SIZE, 1, security, timeout_s=10)) as memory,
        pytest.raises(PlcError) as refused,
    ):
        memory.read(0, 1)
    return str(refused.value)


def test_the_session_of_a_killed_client_ends_after_the_time_that_it_asked_for(tmp_path):
    with _node_plc(tmp_path) as (port, process):
        script = (
            f"from tests import opcua_peers; c = opcua_peers.client({port}, {SIZE}, 1, session_s=3, timeout_s=20); "
            "print(c.read(0, 1), flush=True); input()"
        )
        client = subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(Path.cwd())},
        )
        with client:
            assert client.stdout.readline() == b"(0,)\n"
            client.send_signal(signal.SIGKILL)
        assert _line(process, "session of") == "session of 3000 ms"
        assert _line(process, "session ended").startswith("session ended: Timeout")


def test_a_call_ends_in_time_though_the_handshake_takes_longer_and_a_later_call_uses_it(tmp_path):
    with (
        _node_plc(tmp_path) as (port, process),
        contextlib.closing(opcua_peers.client(port, SIZE, 1, timeout_s=0.2)) as memory,
    ):
        process.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        with pytest.raises(PlcError, match=r"no answer within 0\.2 s"):
            memory.read(0, 1)
        assert time.monotonic() - start < 5
        process.send_signal(signal.SIGCONT)
        limit = time.monotonic() + START_S
        while True:
            with contextlib.suppress(PlcError):
                assert memory.read(0, 1) == (0,)
                break
            assert time.monotonic() < limit


def test_a_session_that_was_lost_in_a_pause_is_replaced_by_the_next_call(tmp_path):
    with (
        _node_plc(tmp_path) as (port, _),
        contextlib.closing(Proxy(port)) as proxy,
        contextlib.closing(opcua_peers.client(proxy.port, SIZE, 1, timeout_s=10)) as memory,
    ):
        assert memory.read(0, 1) == (0,)
        session = memory._session.result()
        proxy.cut()
        wait_for(lambda: session.is_lost)
        assert memory.read(0, 1) == (0,)


@pytest.mark.parametrize("node", ["Patchline", "ns=x;s=a", "ns=3"])
def test_a_wrong_node_id_is_an_error_of_the_configuration(node):
    with pytest.raises(SetupError, match="is no node id"):
        OpcUaClient("opc.tcp://127.0.0.1:1/", [WordArray(node, 0)])


def test_a_variable_that_is_no_array_of_uint16_is_refused(open_server):
    url = f"opc.tcp://127.0.0.1:{open_server.port}/patchline"
    nodes = {"ns=2;s=VisionSystem.Gate.state": "is UInt16, and no array", "ns=2;s=VisionSystem.x": "BadNodeIdUnknown"}
    for node, reason in nodes.items():
        with (
            contextlib.closing(OpcUaClient(url, [WordArray(node, 0)], timeout_s=10)) as memory,
            pytest.raises(PlcError, match=reason),
        ):
            memory.read(0, 1)


def test_a_server_without_index_ranges_gets_no_shared_array(tmp_path):
    (port,) = server.free_ports(1)
    command = opcua_peers.asyncua_plc(port, tmp_path, SIZE)
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(Path.cwd())}, stderr=subprocess.DEVNULL)
    try:
        arrays = [WordArray(f"ns=2;s={opcua_peers.NAMES[0]}", 0)]
        url = f"opc.tcp://127.0.0.1:{port}/"
        with contextlib.closing(OpcUaClient(url, arrays, timeout_s=5)) as memory:
            limit = time.monotonic() + START_S
            while True:
                with contextlib.suppress(PlcError):
                    assert memory.read(1, 2) == (0, 0)
                    break
                assert time.monotonic() < limit
                time.sleep(0.05)
            with pytest.raises(PlcError, match="writes whole arrays only"):
                memory.write(0, [1])
            assert memory.read(0, SIZE // 2) == (0,) * (SIZE // 2)
    finally:
        process.kill()
        process.wait()


def test_a_missing_score_is_not_a_number_for_a_plc_too(open_server):
    values = {"number": 3, "result": 2, "code": 7, "score": math.nan, "sequence": 40}
    open_server.write(LAYOUT.result(3), register_map.RESULT.pack(values))

    async def score():
        async with Client(f"opc.tcp://127.0.0.1:{open_server.port}/") as client:
            return await client.get_node(ua.NodeId("VisionSystem.ResultManagement.Results.03.score", 2)).read_value()

    assert math.isnan(asyncio.run(score()))
