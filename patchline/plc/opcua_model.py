"""The nodes of our OPC UA server, generated from the register map. Names of OPC 40100-1 where they fit.

Node ids are texts that never change: `VisionSystem.Gate.heartbeat`, `VisionSystem.ResultManagement.Results.07.number`,
`VisionSystem.Plc.Triggers.00.sequence`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from asyncua import Node, Server, ua

from patchline.plc import register_map, vision_states
from patchline.plc.register_map import Field, Layout, Record, Value

NAMESPACE = "urn:patchline:plc"
ROOT = "VisionSystem"
PLC = f"{ROOT}.Plc"
TYPES = {
    "word": ua.VariantType.UInt16,
    "dword": ua.VariantType.UInt32,
    "dint": ua.VariantType.Int32,
    "real": ua.VariantType.Float,
}
RESULT_STATE = Field("ResultState", "dint", "0 undefined, 1 completed, 2 processing, 3 aborted, 4 failed. No verdict.")


@dataclass(frozen=True)
class Place:
    """A record of the register map as an object with a variable for each field.

    Attributes:
        first: number of its first word.
        record: its fields.
        node: id of the object.
    """

    first: int
    record: Record
    node: str

    @property
    def end(self) -> int:
        """Number of the first word behind it."""
        return self.first + self.record.words


def url(host: str, port: int) -> str:
    """Return the address of the server for its clients."""
    return f"opc.tcp://{f'[{host}]' if ':' in host else host}:{port}/patchline"


def places(layout: Layout) -> tuple[Place, ...]:
    """Return the places of all records."""
    areas = [Place(layout.gate, register_map.GATE_HEADER, f"{ROOT}.Gate")]
    areas.append(Place(layout.plc, register_map.PLC_HEADER, PLC))
    rings = (
        (layout.result, register_map.RESULT, f"{ROOT}.ResultManagement.Results"),
        (layout.trigger, register_map.TRIGGER, f"{PLC}.Triggers"),
        (layout.confirmation, register_map.CONFIRMATION, f"{PLC}.Confirmations"),
    )
    slots = [
        Place(first(slot), record, f"{folder}.{slot:02}")
        for first, record, folder in rings
        for slot in range(layout.slots)
    ]
    return (*areas, *slots)


def node_id(name: str, index: int) -> ua.NodeId:
    """Return the id of a node of ours."""
    return ua.NodeId(ua.String(name), ua.Int16(index))


def value(field: Field, number: Value, time: ua.DateTime) -> ua.DataValue:
    """Return a value with the type of its field."""
    return ua.DataValue(ua.Variant(number, TYPES[field.kind]), SourceTimestamp=time)


@dataclass(frozen=True)
class Model:
    """The nodes that change apart from the fields.

    Attributes:
        index: of the namespace.
        system_state: `CurrentState` of VisionStateMachine.
        automatic_state: `CurrentState` of AutomaticModeStateMachine.
        result_ready: the event type of a new result.
    """

    index: int
    system_state: Node
    automatic_state: Node
    result_ready: Node


async def build(server: Server, layout: Layout) -> Model:
    """Create types and nodes in an initialised server."""
    index = await server.register_namespace(NAMESPACE)
    builder = _Builder(server, index)
    await builder.add_types()
    return await builder.add_objects(layout)


class _Builder:
    def __init__(self, server: Server, index: int) -> None:
        self._server = server
        self._index = index
        self._types: dict[str, Node] = {}

    async def add_types(self) -> None:
        for name in ("VisionSystemType", "ResultManagementType"):
            await self._add_type(name, ua.ObjectIds.BaseObjectType)
        await self._add_machine_type("VisionStateMachineType", vision_states.SYSTEM_STATES)
        await self._add_machine_type("VisionAutomaticModeStateMachineType", vision_states.AUTOMATIC_STATES)
        result = register_map.RESULT.fields
        await self._add_record_type("GateType", register_map.GATE_HEADER.fields)
        await self._add_record_type("ResultSlotType", result)
        await self._add_record_type("LastResultType", (*result, RESULT_STATE))
        await self._add_record_type("PlcType", register_map.PLC_HEADER.fields, writable=True)
        await self._add_record_type("TriggerSlotType", register_map.TRIGGER.fields, writable=True)
        await self._add_record_type("ConfirmationSlotType", register_map.CONFIRMATION.fields, writable=True)

    async def add_objects(self, layout: Layout) -> Model:
        system = await self._add(self._server.nodes.objects, ROOT, "VisionSystemType")
        machine = await self._add(system, "VisionStateMachine", "VisionStateMachineType")
        automatic = await self._add(machine, "AutomaticModeStateMachine", "VisionAutomaticModeStateMachineType")
        results = await self._add(system, "ResultManagement", "ResultManagementType")
        await self._add(system, "Gate", "GateType")
        plc = await self._add(system, "Plc", "PlcType")
        await self._add(results, "LastResult", "LastResultType")
        await self._add_ring(results, "Results", "ResultSlotType", layout.slots)
        await self._add_ring(plc, "Triggers", "TriggerSlotType", layout.slots)
        await self._add_ring(plc, "Confirmations", "ConfirmationSlotType", layout.slots)
        return Model(
            self._index,
            await machine.get_child("0:CurrentState"),
            await automatic.get_child("0:CurrentState"),
            await self._add_event_type(),
        )

    async def _add(self, parent: Node, name: str, kind: str) -> Node:
        identifier = ROOT if name == ROOT else _child(parent, name)
        return await parent.add_object(
            node_id(identifier, self._index),
            ua.QualifiedName(name, self._index),
            objecttype=self._types[kind].nodeid,
            instantiate_optional=False,
        )

    async def _add_ring(self, parent: Node, name: str, kind: str, slots: int) -> None:
        folder = await parent.add_folder(
            node_id(_child(parent, name), self._index), ua.QualifiedName(name, self._index)
        )
        for slot in range(slots):
            await self._add(folder, f"{slot:02}", kind)

    async def _add_type(self, name: str, base: int) -> Node:
        parent = self._server.get_node(ua.NodeId(ua.Int32(base)))
        node = await parent.add_object_type(node_id(name, self._index), ua.QualifiedName(name, self._index))
        self._types[name] = node
        return node

    async def _add_machine_type(self, name: str, states: Sequence[str]) -> None:
        node = await self._add_type(name, ua.ObjectIds.FiniteStateMachineType)
        for state in states:
            await node.add_object(
                node_id(f"{name}.{state}", self._index),
                ua.QualifiedName(state, self._index),
                objecttype=ua.NodeId(ua.Int32(ua.ObjectIds.StateType)),
                instantiate_optional=False,
            )

    async def _add_record_type(self, name: str, fields: Sequence[Field], writable: bool = False) -> None:
        node = await self._add_type(name, ua.ObjectIds.BaseObjectType)
        for field in fields:
            variable = await node.add_variable(
                node_id(f"{name}.{field.name}", self._index),
                ua.QualifiedName(field.name, self._index),
                0,
                varianttype=TYPES[field.kind],
            )
            text = ua.DataValue(ua.Variant(ua.LocalizedText(field.meaning, "en"), ua.VariantType.LocalizedText))
            await variable.write_attribute(ua.AttributeIds.Description, text)
            await variable.set_writable(writable)
            await variable.set_modelling_rule(True)

    async def _add_event_type(self) -> Node:
        fields = (*register_map.RESULT.fields, RESULT_STATE)
        properties = [(field.name, TYPES[field.kind]) for field in fields]
        name = "ResultReadyEventType"
        return await self._server.create_custom_event_type(self._index, name, properties=properties)


def nodes_of(place: Place, index: int) -> Iterator[tuple[Field, ua.NodeId]]:
    """Return the fields of a place and the ids of their variables."""
    return ((field, node_id(f"{place.node}.{field.name}", index)) for field in place.record.fields)


def last_result(index: int) -> dict[str, ua.NodeId]:
    """Return the ids of the variables of LastResult, in the order of their change."""
    names = [RESULT_STATE.name, *(field.name for field in register_map.RESULT.fields)]
    return {name: node_id(f"{ROOT}.ResultManagement.LastResult.{name}", index) for name in names}


def _child(parent: Node, name: str) -> str:
    assert isinstance(parent.nodeid.Identifier, str)
    return f"{parent.nodeid.Identifier}.{name}"
