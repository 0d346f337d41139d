"""The arm of a line by its address. Nothing is connected."""

import re

import pytest

from patchline import config
from patchline.gate import arms
from patchline.gate.dry_run_output import DryRunOutput
from patchline.gate.outputs import ExecOutput, MemoryOutput, OutputState
from patchline.gate.plc_output import PlcOutput
from patchline.gate.sparkplug_output import SparkplugOutput
from patchline.plc.ethernet_ip import EthernetIpWords
from patchline.plc.modbus_client import ModbusClient
from patchline.plc.modbus_server import ModbusServer
from patchline.plc.opcua_client import OpcUaClient
from patchline.plc.s7 import S7Words
from patchline.protocol.errors import SetupError
from patchline.protocol.gate_messages import ActionRecord

NODES = {"gate_node": "ns=3;s=gate", "plc_node": "ns=3;s=plc"}


def opened(address, **plc):
    settings = config.load(config.PACKAGED).model_copy(update={"plc": config.Plc(**plc)})
    return arms.opener(address, "press-3", settings)("gate-1")


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("modbus:10.0.0.1", ModbusClient),
        ("modbus:10.0.0.1:1502/7", ModbusClient),
        ("modbus:[fe80::1]:502", ModbusClient),
        ("modbus-server:1502", ModbusServer),
        ("modbus-server:0.0.0.0:1502", ModbusServer),
        ("opcua:10.0.0.1:4840/plc", OpcUaClient),
        ("s7:10.0.0.1/5", S7Words),
        ("s7:10.0.0.1/5/0/2", S7Words),
        ("enip:10.0.0.1/WORDS", EthernetIpWords),
    ],
)
def test_an_address_of_a_plc_opens_its_memory(address, kind):
    arm = opened(address, **NODES)
    assert isinstance(arm.output, PlcOutput)
    assert type(arm.station._memory._memory) is kind
    arm.output.close()


def test_programs_and_dry_runs_have_no_plc(tmp_path):
    for address, kind in (("dry-run", DryRunOutput), ("exec:cat", ExecOutput)):
        arm = opened(address)
        assert type(arm.output) is kind
        assert arm.station is None
        arm.output.close()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("profinet:10.0.0.1", "must look like one of: exec:COMMAND, dry-run, modbus:HOST"),
        ("modbus:", "is not the address of a PLC"),
        ("modbus:10.0.0.1:70000", "'70000' is not a port, 0 to 65535"),
        ("modbus:10.0.0.1/900", "'900' is not a unit, 0 to 255"),
        ("s7:10.0.0.1", "s7:HOST/DB"),
        ("enip:10.0.0.1", "names no tag"),
        ("opcua:10.0.0.1:4840", "set plc.gate_node and plc.plc_node"),
        ("mqtt:", "names no broker"),
        ("mqtt://user:secret@broker", "which others can see"),
        ("exec:'", "is not a command"),
    ],
)
def test_a_wrong_address_is_refused_with_what_to_do(address, message):
    with pytest.raises(SetupError, match=message) as error:
        opened(address)
    assert "secret" not in str(error.value)


def test_the_url_of_an_mqtt_broker_may_have_a_password_in_the_environment(monkeypatch):
    monkeypatch.setenv("PATCHLINE_MQTT_URL", "mqtt://user:secret@127.0.0.1:1")
    opened("mqtt:").output.close()


def test_a_sparkplug_node_goes_with_an_mqtt_arm(monkeypatch):
    arm = opened("mqtt://127.0.0.1:1", sparkplug_group="plant-1")
    assert type(arm.output) is SparkplugOutput
    arm.output.close()


def test_certificates_of_opc_ua_go_together(tmp_path):
    with pytest.raises(SetupError, match=r"cert_file and plc\.key_file go together"):
        opened("opcua:10.0.0.1:4840", cert_file=tmp_path / "gate.pem", **NODES)


def test_files_of_a_plc_are_relative_to_the_configuration(tmp_path):
    plc = "plc: {cert_file: gate.pem, lines: {l1: {key_file: l1.key, peer_files: [plc.pem]}}}"
    text = re.sub(r"(?ms)^plc:.*?^paths:", plc + "\npaths:", config.PACKAGED.read_text())
    (tmp_path / "config.yaml").write_text(text)
    rules = config.load(tmp_path / "config.yaml").plc.rules("l1")
    assert (rules.cert_file, rules.key_file) == (tmp_path / "gate.pem", tmp_path / "l1.key")
    assert rules.peer_files == (tmp_path / "plc.pem",)


class Node:
    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append(name)


def test_a_node_records_what_the_arm_has_acknowledged_and_nothing_else():
    arm, node = MemoryOutput(), Node()
    output = SparkplugOutput(arm, node)
    action = ActionRecord(
        job_id="j", line="l", category="c", part_id="p", action="reject", because="fail", acted_at=1_800_000_000_000
    )
    output.act(action)
    output.tell(OutputState())
    output.check()
    arm.fault = "jammed"
    with pytest.raises(Exception, match="jammed"):
        output.act(action)
    output.close()
    assert node.calls == ["record", "tell", "step", "step", "close"]
