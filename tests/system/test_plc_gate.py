"""Gates whose arm is a PLC: real gates, RabbitMQ and Modbus servers, which are killed and frozen."""

import contextlib
import os
import signal
import time

import pytest

from patchline import config
from patchline.plc import register_map as registers
from patchline.plc.modbus_client import ModbusClient
from patchline.plc.register_map import GATE_HEADER, RESULT, GateState
from patchline.plc.words import PlcError
from patchline.protocol.messages import Decision
from patchline.services import server
from tests import forked
from tests.plc_servers import PLCS, SIZE, TIMEOUT_S, Server
from tests.system import gates
from tests.system.conftest import wait_for
from tests.system.gates import is_serving, role, stands_by

pytestmark = pytest.mark.timeout(240)
LAYOUT = registers.Layout(gate=0, plc=256, slots=16)
ACCEPT, REJECT = registers.Result.ACCEPT, registers.Result.REJECT


@pytest.fixture
def plc(tmp_path):
    (port,) = server.free_ports(1)
    running = Server(PLCS["modbus"], port, tmp_path)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def words(plc):
    with contextlib.closing(plc.connect()) as memory:
        yield memory


def start(line, folder, address, name="g1", *options, layout=LAYOUT):
    """Start a gate; its log is a file with the name."""
    rules = config.Plc(gate_start=layout.gate, plc_start=layout.plc, slots=layout.slots)
    paths = line.settings.paths.model_copy(update={"gate": folder / "gate-memory"})
    settings = line.settings.model_copy(update={"plc": rules, "paths": paths})
    config.save(settings, folder / "config.yaml")
    command = ["gate", "--line", "l1", "--output", address, "--instance", name, *options]
    log = folder / f"{name}.log"
    with log.open("a") as errors:
        words = [*command, "--config", folder / "config.yaml"]
        process = forked.start(words, os.environ | line.environment, stdout=None, stderr=errors)
    line.on_exit(process)
    process.log = log
    return process


def announce(line, number, patience_ms=60_000):
    gates.announce(line, f"j{number}", patience_ms, number=number)


def decide(line, number, decision=Decision.PASS):
    gates.decide(line, f"j{number}", decision, number=number)


def result(words, number):
    try:
        slot = RESULT.unpack(words.read(LAYOUT.result(number), RESULT.words))
    except PlcError:
        return None
    return slot["result"] if slot["number"] == number else None


def all_results(words):
    return [words.read(LAYOUT.result(number), RESULT.words) for number in range(LAYOUT.slots)]


def header(words):
    return GATE_HEADER.unpack(words.read(LAYOUT.gate, GATE_HEADER.words))


def beats(words):
    """Return True if the heartbeat changes within a second."""
    first, limit = header(words)["heartbeat"], time.monotonic() + 1.0
    while time.monotonic() < limit:
        if header(words)["heartbeat"] != first:
            return True
        time.sleep(0.02)
    return False


def test_verdicts_become_results_by_part_number_and_the_heartbeat_goes_on(line, tmp_path, plc, words):
    gate = start(line, tmp_path, f"modbus:127.0.0.1:{plc.port}")
    wait_for(lambda: is_serving(gate))
    for number, decision in ((1, Decision.PASS), (2, Decision.FAIL)):
        announce(line, number)
        decide(line, number, decision)
    announce(line, 3, patience_ms=500)
    wait_for(lambda: [result(words, number) for number in (1, 2, 3)] == [ACCEPT, REJECT, REJECT])
    wait_for(lambda: beats(words))
    assert header(words)["state"] & GateState.READY


def test_a_standby_gives_no_sign_of_life_until_it_takes_over(line, tmp_path, plc, words):
    first = start(line, tmp_path, f"modbus:127.0.0.1:{plc.port}", "g1")
    wait_for(lambda: is_serving(first))
    second = start(line, tmp_path, f"modbus:127.0.0.1:{plc.port}", "g2")
    wait_for(lambda: stands_by(second))
    first.kill()
    wait_for(lambda: not beats(words), timeout_s=5)
    wait_for(lambda: is_serving(second))
    wait_for(lambda: beats(words))
    announce(line, 4)
    decide(line, 4)
    wait_for(lambda: result(words, 4) == ACCEPT)


def test_a_frozen_gate_gives_no_sign_of_life_and_writes_nothing_old_when_it_wakes(line, tmp_path, plc, words):
    first = start(line, tmp_path, f"modbus:127.0.0.1:{plc.port}", "g1")
    wait_for(lambda: is_serving(first))
    second = start(line, tmp_path, f"modbus:127.0.0.1:{plc.port}", "g2")
    wait_for(lambda: stands_by(second))
    first.send_signal(signal.SIGSTOP)
    announce(line, 5)
    decide(line, 5, Decision.FAIL)
    wait_for(lambda: result(words, 5) == REJECT)
    slots = all_results(words)
    first.send_signal(signal.SIGCONT)
    wait_for(lambda: role(first) == "standby")
    assert all_results(words) == slots


PARTS = range(21, 31)  # of this test only: the gate of another test may still report an act on a part with its number


def test_a_plc_that_was_frozen_gets_its_results_and_the_gate_hears_its_line_meanwhile(line, tmp_path, plc, words):
    gate = start(line, tmp_path, f"modbus:127.0.0.1:{plc.port}")
    wait_for(lambda: is_serving(gate) and beats(words))
    plc.freeze()
    for number in PARTS:
        announce(line, number)
        decide(line, number)
    wait_for(lambda: "the arm takes no sign of life" in gate.log.read_text())
    plc.thaw()
    wait_for(lambda: all(result(words, number) == ACCEPT for number in PARTS))
    wait_for(lambda: "the arm takes signs of life again" in gate.log.read_text())
    assert gate.poll() is None


def test_a_plc_that_is_a_client_polls_the_gate_and_cannot_write_results(line, tmp_path):
    (port,) = server.free_ports(1)
    gate = start(line, tmp_path, f"modbus-server:{port}")
    wait_for(lambda: is_serving(gate))
    listening = next(entry for entry in gate.log.read_text().splitlines() if "listening for the PLC" in entry)
    assert all(text in listening for text in ("Modbus TCP", "127.0.0.1", str(port)))
    announce(line, 7)
    decide(line, 7)
    with contextlib.closing(ModbusClient("127.0.0.1", port, timeout_s=TIMEOUT_S)) as words:
        wait_for(lambda: result(words, 7) == ACCEPT)
        with pytest.raises(PlcError):
            words.write(LAYOUT.result(7), [0] * RESULT.words)
        words.write(LAYOUT.plc, [1, 1, 5])
        wait_for(lambda: header(words)["heartbeat_echo"] == 5)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("profinet:10.0.0.1", "is not the address of an arm; it must look like one of: exec:COMMAND"),
        ("modbus:10.0.0.1:70000", "'70000' is not a port, 0 to 65535"),
        ("enip:10.0.0.1", "names no tag"),
    ],
)
def test_a_wrong_address_is_one_line(line, tmp_path, address, message):
    gate = start(line, tmp_path, address)
    assert gate.wait(60) == 2
    text = gate.log.read_text()
    assert message in text
    assert text.count("\n") == 1


def test_a_gate_says_where_its_opc_ua_server_listens_and_a_second_one_there_ends_with_one_line(line, tmp_path):
    (port,) = server.free_ports(1)
    first = start(line, tmp_path, f"opcua-server:{port}", "g1")
    wait_for(lambda: f"opc.tcp://127.0.0.1:{port}/patchline" in first.log.read_text(), 120)
    second = start(line, tmp_path, f"opcua-server:{port}", "g2")
    assert second.wait(120) == 2
    text = second.log.read_text()
    assert "cannot listen" in text
    assert "does another gate of this host listen there?" in text
    assert text.count("\n") == 1


def test_a_plc_whose_memory_is_too_small_is_named_in_the_log_and_gets_no_sign_of_life(line, tmp_path, plc, words):
    too_large = registers.Layout(gate=0, plc=340, slots=32)
    gate = start(line, tmp_path, f"modbus:127.0.0.1:{plc.port}", layout=too_large)
    wait_for(lambda: "the arm takes no sign of life" in gate.log.read_text())
    assert "the PLC's area (triggers and confirmations), words 340 to 739, cannot be read" in gate.log.read_text()
    assert header(words)["heartbeat"] == 0


def test_the_words_of_the_test_fit(plc):
    assert LAYOUT.plc + LAYOUT.plc_words <= SIZE
