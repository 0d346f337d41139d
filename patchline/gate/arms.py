"""The arm of a line by its address: a program, a PLC, MQTT, or none."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass

from patchline import config
from patchline.gate.dry_run_output import DryRunOutput
from patchline.gate.outputs import ExecOutput, Output
from patchline.gate.plc_output import PlcOutput
from patchline.gate.sparkplug_output import SparkplugOutput
from patchline.plc import connecting, mqtt_url
from patchline.plc.station import Station
from patchline.protocol.errors import SetupError
from patchline.protocol.tls import Certificates
from patchline.runtime.uptime import boot_s

FORMS = ("exec:COMMAND", "dry-run", *connecting.FORMS, "mqtt:[//HOST:PORT]")


@dataclass(frozen=True)
class Arm:
    """What a gate acts through, and the PLC that it hears, if there is one."""

    output: Output
    station: Station | None = None


def opener(address: str, line: str, settings: config.Config) -> Callable[[str], Arm]:
    """Return what opens the arm at an address, given the name of the gate.

    A program is started, and a PLC or broker is connected at its first use.

    Args:
        address: one of `FORMS`. A url of MQTT without a host is that of PATCHLINE_MQTT_URL.
        line: the line of the gate.
        settings: the configuration.

    Raises:
        SetupError: the address is not valid. The opener raises it if the arm cannot be used.
    """
    kind, _, place = address.partition(":")
    rules, timeout_s = settings.plc.rules(line), settings.gate.act_timeout_ms / 1000
    if kind == "exec":
        command = _command(place)
        return lambda _: Arm(ExecOutput(command, timeout_s))
    if address == "dry-run":
        return lambda _: Arm(DryRunOutput())
    if kind == "mqtt":
        url = mqtt_url.find(address)
        return lambda name: Arm(_mqtt(url, line, name, rules, timeout_s))
    if kind not in connecting.KINDS:
        raise SetupError(f"{address!r} is not the address of an arm; it must look like one of: {', '.join(FORMS)}")
    return lambda _: _plc(address, rules)


def _plc(address: str, rules: config.PlcRules) -> Arm:
    station = Station(connecting.open_memory(address, rules), connecting.layout(rules), boot_s)
    distance = rules.arm if rules.unit == "counts" else None
    return Arm(PlcOutput(station, rules.heartbeat_ms / 1000, distance, boot_s), station)


def _mqtt(url: str, line: str, name: str, rules: config.PlcRules, timeout_s: float) -> Output:
    try:
        from patchline.gate.mqtt_output import MqttOutput
        from patchline.gate.sparkplug_node import SparkplugNode
    except ModuleNotFoundError as error:
        raise SetupError(f"mqtt: needs the package {error.name}; install patchline[plc]") from error
    certificates = Certificates(rules.ca_file, rules.cert_file, rules.key_file)
    output = MqttOutput(url, line, name, timeout_s, certificates=certificates)
    if rules.sparkplug_group is None:
        return output
    node = SparkplugNode(url, rules.sparkplug_group, f"{line}-{name}", certificates=certificates)
    return SparkplugOutput(output, node)


def _command(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise SetupError(f"--exec {text!r} is not a command: {str(error).lower()}") from error
    if not words:
        raise SetupError("--exec names no program; give the arm's program, such as /etc/patchline/gate-press-3.sh")
    return words
