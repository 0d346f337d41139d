"""Opens the memory that a gate and a PLC share, by its address. Packages are imported when they are needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from patchline import config
from patchline.plc.register_map import Layout
from patchline.plc.words import PlcError, WordMemory
from patchline.protocol.errors import SetupError

if TYPE_CHECKING:
    from patchline.plc.opcua_security import OpcUaSecurity

_ANYWHERE = "127.0.0.1"


def layout(rules: config.PlcRules) -> Layout:
    """Return where the two areas are."""
    return Layout(rules.gate_start, rules.plc_start, rules.slots)


def open_memory(address: str, rules: config.PlcRules) -> WordMemory:
    """Return the memory at an address such as `modbus:192.168.0.10`. It connects at the first use.

    Args:
        address: one of the forms in `FORMS`.
        rules: time limits, and where the areas are.

    Raises:
        SetupError: the address is not valid, or the package of its protocol is not installed.
    """
    kind, _, place = address.partition(":")
    if kind not in KINDS or not place:
        raise SetupError(f"{address!r} is not the address of a PLC; it must look like one of: {', '.join(FORMS)}")
    try:
        return KINDS[kind](place, rules)
    except ModuleNotFoundError as error:
        raise SetupError(f"{kind}: needs the package {error.name}; install patchline[plc]") from error


def _modbus(place: str, rules: config.PlcRules) -> WordMemory:
    from patchline.plc.modbus_client import PORT, UNIT, ModbusClient

    where, _, unit = place.partition("/")
    host, port = _host_and_port(where, PORT)
    return ModbusClient(host, port, _number(unit, 255, "unit") if unit else UNIT, rules.timeout_ms / 1000)


def _modbus_server(place: str, rules: config.PlcRules) -> WordMemory:
    from patchline.plc.modbus_server import ModbusServer

    host, port = _host_and_port(place if ":" in place else f"{_ANYWHERE}:{place}", 0)
    areas = layout(rules)
    written = range(areas.plc, areas.plc + areas.plc_words)
    return ModbusServer(host, port, max(areas.gate + areas.gate_words, written.stop), written)


def _s7(place: str, rules: config.PlcRules) -> WordMemory:
    from patchline.plc.s7 import PORT, S7Words

    where, *numbers = place.split("/")
    host, port = _host_and_port(where, PORT)
    if len(numbers) not in (1, 3):
        raise SetupError(f"s7:{place} is not s7:HOST/DB or s7:HOST/DB/RACK/SLOT, with the number of a data block")
    block, rack, slot = [*(_number(text, 65_535, "number") for text in numbers), 0, 1][:3]
    return S7Words(host, block, rack, slot, port, rules.timeout_ms / 1000)


def _ethernet_ip(place: str, rules: config.PlcRules) -> WordMemory:
    from patchline.plc.ethernet_ip import PORT, EthernetIpWords

    where, _, tag = place.partition("/")
    if not tag:
        raise SetupError(f"enip:{place} names no tag; write enip:HOST/TAG with the name of an array of INT")
    host, port = _host_and_port(where, PORT)
    return EthernetIpWords(host, tag, port, timeout_s=rules.timeout_ms / 1000)


def _opcua(place: str, rules: config.PlcRules) -> WordMemory:
    from patchline.plc.opcua_client import OpcUaClient, WordArray

    if rules.gate_node is None or rules.plc_node is None:
        raise SetupError("opcua: needs the node ids of the PLC's arrays; set plc.gate_node and plc.plc_node")
    arrays = [WordArray(rules.gate_node, rules.gate_start), WordArray(rules.plc_node, rules.plc_start)]
    if rules.gate_node == rules.plc_node:  # one array of both areas
        arrays = [min(arrays, key=lambda array: array.first)]
    return OpcUaClient(f"opc.tcp://{place}", arrays, _opcua_security(rules), rules.timeout_ms / 1000)


def _opcua_server(place: str, rules: config.PlcRules) -> WordMemory:
    from patchline.plc.opcua_server import OpcUaServer

    host, port = _host_and_port(place if ":" in place else f"{_ANYWHERE}:{place}", 0)
    try:
        return OpcUaServer(host, port, layout(rules), _opcua_security(rules))
    except PlcError as error:
        raise SetupError(f"{error}; does another gate of this host listen there?") from error


def _opcua_security(rules: config.PlcRules) -> OpcUaSecurity | None:
    from patchline.plc.opcua_security import OpcUaSecurity

    if rules.cert_file is None and rules.key_file is None:
        return None
    if rules.cert_file is None or rules.key_file is None:
        raise SetupError("plc.cert_file and plc.key_file go together; set both or none")
    return OpcUaSecurity(rules.cert_file, rules.key_file, rules.peer_files, rules.user, rules.password_file)


# The form of each address, for people, and what opens it.
FORMS = (
    "modbus:HOST[:PORT][/UNIT]",
    "modbus-server:[HOST:]PORT",
    "opcua:HOST:PORT[/PATH]",
    "opcua-server:[HOST:]PORT",
    "s7:HOST[:PORT]/DB[/RACK/SLOT]",
    "enip:HOST[:PORT]/TAG",
)
KINDS: dict[str, Callable[[str, config.PlcRules], WordMemory]] = {
    "modbus": _modbus,
    "modbus-server": _modbus_server,
    "opcua": _opcua,
    "opcua-server": _opcua_server,
    "s7": _s7,
    "enip": _ethernet_ip,
}


def _host_and_port(where: str, default: int) -> tuple[str, int]:
    """Split `HOST`, `HOST:PORT` or `[IPV6]:PORT`."""
    if where.startswith("["):
        host, _, rest = where[1:].partition("]")
        port = rest.removeprefix(":")
    else:
        host, _, port = where.partition(":")
    if not host:
        raise SetupError(f"{where!r} names no host")
    return host, _number(port, 65_535, "port") if port else default


def _number(text: str, largest: int, what: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= largest):
        raise SetupError(f"{text!r} is not a {what}, 0 to {largest}")
    return int(text)
