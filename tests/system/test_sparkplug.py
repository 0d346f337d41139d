"""A gate as a node of Sparkplug B, on a real broker. A host that shares no code with it reads the payloads."""

import subprocess
import sys
import threading
import time

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from patchline.devices.protobuf import read_fields
from patchline.gate.outputs import OutputState
from patchline.gate.sparkplug_node import REBIRTH, SparkplugNode
from patchline.plc.sparkplug import DataType, Metric, encode
from patchline.protocol.gate_messages import Action
from patchline.services.server import HOST
from tests.system.mqtt_brokers import Mosquitto
from tests.unit import test_gate_outputs

pytestmark = pytest.mark.timeout(180)
NODE = """
import sys, time
from patchline.gate.sparkplug_node import SparkplugNode
node = SparkplugNode(sys.argv[1], "plant", "l-g1", timeout_s=30.0)
while True:
    node.step()
    time.sleep(0.1)
"""


def action(job_id, verb=Action.REJECT):
    return test_gate_outputs.action("j").model_copy(update={"job_id": job_id, "action": verb})


def decode(payload):
    """Return the sequence number (None without one) and the metrics by name, with values that are varints or text."""
    sequence, metrics = None, {}
    for number, content in read_fields(memoryview(payload)):
        if number == 3:
            sequence = content
        elif number == 2:
            fields = dict(read_fields(content))
            value = fields.get(11, fields.get(14))
            metrics[bytes(fields[1]).decode()] = bytes(fields[15]).decode() if 15 in fields else value
    return sequence, metrics


class Host:
    """Subscribes to a group, and sends commands."""

    def __init__(self, broker):
        self.messages, self._ready = [], threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, "host")
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe("spBv1.0/plant/#", 1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._on_message
        self._client.connect(HOST, broker.port, 30)
        self._client.loop_start()
        self.wait_until_subscribed()

    def wait_until_subscribed(self):
        assert self._ready.wait(60)
        self._ready.clear()

    def _on_message(self, _client, _data, message):
        kind = message.topic.split("/")[2]
        if kind != "NCMD":
            self.messages.append((kind, message.retain, *decode(message.payload)))

    def of(self, kind):
        return [(sequence, metrics) for name, _, sequence, metrics in list(self.messages) if name == kind]

    def command(self, payload):
        self._client.publish("spBv1.0/plant/NCMD/l-g1", payload, 1).wait_for_publish(60)

    def close(self):
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture
def broker(tmp_path):
    broker = Mosquitto(tmp_path / "mosquitto")
    yield broker
    broker.stop()


@pytest.fixture
def host(broker):
    host = Host(broker)
    yield host
    host.close()


@pytest.fixture
def node(broker):
    node = SparkplugNode(broker.url, "plant", "l-g1", timeout_s=30.0)
    yield node
    node.close()


def wait_until(condition, meanwhile=lambda: None):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        meanwhile()
        time.sleep(0.01)


def step_until(node, condition, told=None):
    """Let the node work. Args: told: what the gate tells meanwhile; without it, the gate stands by."""

    def step():
        if told is not None:
            node.tell(told)
        node.step()

    wait_until(condition, step)


def test_the_birth_names_every_metric_and_data_follow_it_by_sequence_numbers(host, node):
    step_until(node, lambda: host.of("NBIRTH"))
    sequence, born = host.of("NBIRTH")[0]
    assert sequence == 0
    assert born["Gate/State"] == "standby"
    assert born[REBIRTH] == 0
    step_until(node, lambda: len(host.of("NDATA")) == 1, OutputState())
    node.record(action("j1"))
    node.record(action("j2", Action.ACCEPT))
    step_until(node, lambda: len(host.of("NDATA")) == 3, OutputState())
    (first, state), (second, rejected), (third, accepted) = host.of("NDATA")
    assert (first, second, third) == (1, 2, 3)
    assert state == {"Gate/State": "serving"}
    assert (rejected["Result/Job"], rejected["Result/Action"], rejected["Gate/Rejected"]) == ("j1", "reject", 1)
    assert (accepted["Result/Job"], accepted["Result/Action"], accepted["Gate/Accepted"]) == ("j2", "accept", 1)
    assert state.keys() | rejected.keys() | accepted.keys() <= born.keys()
    assert not any(retained for _, retained, *_ in host.messages)


def test_sequence_numbers_go_to_255_and_begin_again_at_0(host, node):
    step_until(node, lambda: host.of("NBIRTH"))
    for number in range(300):
        node.record(action(f"j{number}"))
        node.step()
    step_until(node, lambda: len(host.of("NDATA")) == 300)
    assert [sequence for sequence, _ in host.of("NDATA")] == [(number + 1) % 256 for number in range(300)]


def test_a_command_brings_a_new_birth_and_nonsense_does_not(host, node):
    step_until(node, lambda: host.of("NBIRTH"))
    host.command(b"\xff nonsense")
    host.command(encode([Metric(REBIRTH, DataType.BOOLEAN, False)], 1))
    step_until(node, lambda: len(host.of("NDATA")) == 1, OutputState(blind=True))
    host.command(encode([Metric(REBIRTH, DataType.BOOLEAN, True)], 1))
    step_until(node, lambda: len(host.of("NBIRTH")) > 1, OutputState(blind=True))
    first, second = host.of("NBIRTH")
    assert (second[0], second[1]["Gate/State"]) == (0, "blind")
    assert second[1]["bdSeq"] == first[1]["bdSeq"]
    node.record(action("j"))
    step_until(node, lambda: len(host.of("NDATA")) == 2, OutputState(blind=True))
    assert host.of("NDATA")[-1][0] == 1


def test_the_death_of_a_node_has_the_number_of_its_birth(host, node):
    step_until(node, lambda: host.of("NBIRTH"))
    node.close()
    wait_until(lambda: host.of("NDEATH"))
    assert host.of("NDEATH") == [(None, {"bdSeq": host.of("NBIRTH")[0][1]["bdSeq"]})]


def test_the_broker_publishes_the_death_of_a_killed_node(host, broker):
    process = subprocess.Popen([sys.executable, "-c", NODE, broker.url])
    wait_until(lambda: host.of("NBIRTH"))
    process.kill()
    process.wait()
    wait_until(lambda: host.of("NDEATH"))
    assert host.of("NDEATH") == [(None, {"bdSeq": host.of("NBIRTH")[0][1]["bdSeq"]})]


def test_after_a_restart_of_the_broker_the_next_birth_has_the_next_number(host, node, broker):
    step_until(node, lambda: host.of("NBIRTH"))
    broker.stop()
    for number in range(100):  # none of these is kept
        node.record(action(f"j{number}"))
        node.step()
    broker.start()
    host.wait_until_subscribed()
    node._connect_at = 0.0
    step_until(node, lambda: len(host.of("NBIRTH")) > 1)
    first, second = host.of("NBIRTH")
    assert second[1]["bdSeq"] == (first[1]["bdSeq"] + 1) % 256
    assert (second[0], second[1]["Gate/Rejected"]) == (0, 100)
    assert host.of("NDATA") == []
