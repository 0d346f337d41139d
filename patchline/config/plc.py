"""How gates and PLCs speak, and where the arm of a line is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field

from patchline.config.base import Count, File, Section
from patchline.protocol import messages

_FILES = ("cert_file", "key_file", "ca_file", "password_file")
Code = Annotated[int, Field(ge=1, le=65_535)]
Distance = Annotated[int, Field(ge=1, lt=2**31)]
_HEADER_WORDS, _RESULT_WORDS, _EVENTS_WORDS = 16, 10, 12  # of patchline/plc/register_map.py; the last two per slot


class BeltRules(Section):
    """Where parts meet their arm, from the trigger on: in counts of the encoder, or in milliseconds without one.

    Attributes:
        unit: that of all distances here.
        arm: distance from the trigger to the arm. An action that comes later is missed. None: only the PLC knows.
        window: the last part of that distance. A part that enters it without a verdict is rejected.
        release: `decided` hands an action over as soon as it is decided, and the PLC waits for the part; `window`
            waits until the part has entered the window.
        sensor: distance from the trigger to the sensor behind the arm. None: there is none.
        sensor_window: a reject that is not confirmed this much later has escaped.
        announce_ms: a part that the PLC has triggered must be announced within this time.
        stop_after_rejects: parts in a row after which the line is to stop; 0: never.
        stop_after_missed: missed actions in a row after which the line is to stop; 0: never.
    """

    unit: Literal["counts", "ms"] = "counts"
    arm: Distance | None = None
    window: Distance = 1
    release: Literal["decided", "window"] = "decided"
    sensor: Distance | None = None
    sensor_window: Distance = 1
    announce_ms: Count = 500
    stop_after_rejects: Annotated[int, Field(ge=0)] = 0
    stop_after_missed: Annotated[int, Field(ge=0)] = 0

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> BeltRules:
        if self.arm is None and self.release == "window":
            raise ValueError("release is window, but arm is not set; say where the arm is")
        if self.arm is not None and self.window > self.arm:
            raise ValueError(f"window {self.window} is longer than the way to the arm ({self.arm})")
        if self.sensor is not None and self.sensor <= (self.arm or 0):
            raise ValueError(f"sensor {self.sensor} is not behind the arm ({self.arm or 0})")
        return self


class PlcRules(BeltRules):
    """What the PLC of a line needs.

    Attributes:
        timeout_ms: of one read or write.
        heartbeat_ms: period of the gate's heartbeat.
        poll_ms: between two reads of what the PLC says.
        gate_start: number of the first word that the gate writes.
        plc_start: number of the first word that the PLC writes.
        slots: number of parts whose results the PLC can read at the same time.
        gate_node: OPC UA: node id of the array that the gate writes; its first element is word `gate_start`.
        plc_node: OPC UA: node id of the array that the PLC writes; its first element is word `plc_start`.
        cert_file: OPC UA: certificate of the gate. MQTT with TLS: certificate to show, if the broker asks for one.
        key_file: its private key.
        peer_files: OPC UA: the certificates to trust.
        ca_file: MQTT with TLS: CA certificates; None: those of the system.
        sparkplug_group: MQTT: the gate is also a Sparkplug B node of this group. None: it is not.
        user: OPC UA: name of the user.
        password_file: OPC UA: file with the password of the user.
    """

    timeout_ms: Annotated[int, Field(ge=10, le=2_000)] = 200
    heartbeat_ms: Annotated[int, Field(ge=20, le=10_000)] = 100
    poll_ms: Annotated[int, Field(ge=5, le=1_000)] = 20
    gate_start: Annotated[int, Field(ge=0, le=60_000)] = 0
    plc_start: Annotated[int, Field(ge=0, le=60_000)] = 1_000
    slots: Annotated[int, Field(ge=2, le=4_000)] = 64
    gate_node: str | None = None
    plc_node: str | None = None
    cert_file: File = None
    key_file: File = None
    peer_files: Annotated[tuple[Annotated[Path, Field(strict=False)], ...], Field(strict=False)] = ()
    ca_file: File = None
    sparkplug_group: messages.Name | None = None
    user: str | None = None
    password_file: File = None

    @pydantic.model_validator(mode="after")
    def _areas_are_apart(self) -> PlcRules:
        gate_end = self.gate_start + _HEADER_WORDS + self.slots * _RESULT_WORDS
        plc_end = self.plc_start + _HEADER_WORDS + self.slots * _EVENTS_WORDS
        if self.gate_start < plc_end and self.plc_start < gate_end:
            raise ValueError(
                f"the areas overlap: the gate's has words {self.gate_start} to {gate_end - 1}, the PLC's "
                f"{self.plc_start} to {plc_end - 1}; move gate_start or plc_start, or take fewer slots"
            )
        return self


class Plc(PlcRules):
    """The PLCs. `lines` overrides any key for one line, `categories` gives each product its code."""

    categories: dict[messages.Name, Code] = Field(default_factory=dict)
    lines: dict[messages.Name, dict[str, object]] = Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _lines_are_valid(self) -> Plc:
        for line in self.lines:
            try:
                self.rules(line)
            except pydantic.ValidationError as error:
                first = error.errors(include_url=False)[0]
                key = ".".join(("lines", line, *map(str, first["loc"])))
                raise ValueError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from None
        codes = list(self.categories.values())
        if len(set(codes)) < len(codes):
            raise ValueError("two categories have the same code; give each one its own")
        return self

    def below(self, folder: Path) -> Plc:
        """Return the section with the paths of its files relative to a folder."""
        lines = {line: keys | _below(folder, keys) for line, keys in self.lines.items()}
        return self.model_copy(update=_below(folder, dict(self)) | {"lines": lines})

    @property
    def codes(self) -> dict[int, str]:
        """The category of each code."""
        return {code: category for category, code in self.categories.items()}

    def rules(self, line: str) -> PlcRules:
        """Return the rules of a line."""
        values = self.model_dump(include=set(PlcRules.model_fields))
        return PlcRules.model_validate(values | self.lines.get(line, {}))


def _below(folder: Path, keys: Mapping[str, object]) -> dict[str, object]:
    """Return the keys that name files, with paths below the folder."""
    files = {key: folder / str(keys[key]) for key in _FILES if keys.get(key) is not None}
    peers = keys.get("peer_files")
    return files | ({"peer_files": tuple(folder / str(path) for path in peers)} if isinstance(peers, Iterable) else {})
