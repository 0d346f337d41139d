"""Payloads of Sparkplug B: named metrics in a protocol buffer.

Source of the fields and types: Sparkplug Specification 3.0, chapter 6.4 (sparkplug.eclipse.org). Only what a node needs
that has no devices, data sets or templates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

NAMESPACE = "spBv1.0"
_Field = descriptor_pb2.FieldDescriptorProto


class DataType(IntEnum):
    """Types of metrics, with their numbers in Sparkplug B."""

    INT64 = 4
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12


_VALUE_FIELDS = {
    DataType.INT64: "long_value",
    DataType.DOUBLE: "double_value",
    DataType.BOOLEAN: "boolean_value",
    DataType.STRING: "string_value",
}
_METRIC_FIELDS = (
    ("name", 1, _Field.TYPE_STRING),
    ("alias", 2, _Field.TYPE_UINT64),
    ("timestamp", 3, _Field.TYPE_UINT64),
    ("datatype", 4, _Field.TYPE_UINT32),
    ("is_null", 7, _Field.TYPE_BOOL),
    ("int_value", 10, _Field.TYPE_UINT32),
    ("long_value", 11, _Field.TYPE_UINT64),
    ("float_value", 12, _Field.TYPE_FLOAT),
    ("double_value", 13, _Field.TYPE_DOUBLE),
    ("boolean_value", 14, _Field.TYPE_BOOL),
    ("string_value", 15, _Field.TYPE_STRING),
)
Value = bool | int | float | str


@dataclass(frozen=True)
class Metric:
    """A named value of a type. None: the value is not known."""

    name: str
    type: DataType
    value: Value | None


def encode(metrics: list[Metric], timestamp_ms: int, sequence: int | None = None) -> bytes:
    """Return the payload of a message.

    Args:
        metrics: in the order of the message.
        timestamp_ms: time of the message and of its metrics.
        sequence: 0 to 255. A death certificate has none.
    """
    payload = _PAYLOAD(timestamp=timestamp_ms)
    if sequence is not None:
        payload.seq = sequence
    for metric in metrics:
        encoded = payload.metrics.add(name=metric.name, timestamp=timestamp_ms, datatype=metric.type)
        if metric.value is None:
            encoded.is_null = True
        elif metric.type is DataType.INT64:
            encoded.long_value = int(metric.value) % 2**64
        else:
            setattr(encoded, _VALUE_FIELDS[metric.type], metric.value)
    return bytes(payload.SerializeToString())


def commands(payload: bytes) -> Mapping[str, bool]:
    """Return the boolean metrics of a command, by name.

    Raises:
        ValueError: the payload is none of Sparkplug B.
    """
    try:
        message = _PAYLOAD.FromString(payload)
    except DecodeError as error:
        raise ValueError("this is no payload of Sparkplug B") from error
    return {metric.name: metric.boolean_value for metric in message.metrics if metric.HasField("boolean_value")}


def _payload_class() -> Any:
    """Describe the two messages at run time: a compiled description would fit some versions of protobuf only."""
    file = descriptor_pb2.FileDescriptorProto(name="patchline/sparkplug.proto", package="patchline", syntax="proto2")
    payload, metric = file.message_type.add(name="Payload"), file.message_type.add(name="Metric")
    for name, number, kind in _METRIC_FIELDS:
        metric.field.add(name=name, number=number, type=kind, label=_Field.LABEL_OPTIONAL)
    payload.field.add(name="timestamp", number=1, type=_Field.TYPE_UINT64, label=_Field.LABEL_OPTIONAL)
    metrics = payload.field.add(name="metrics", number=2, type=_Field.TYPE_MESSAGE, label=_Field.LABEL_REPEATED)
    metrics.type_name = ".patchline.Metric"
    payload.field.add(name="seq", number=3, type=_Field.TYPE_UINT64, label=_Field.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("patchline.Payload"))


_PAYLOAD = _payload_class()
