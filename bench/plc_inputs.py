"""How soon a gate sees what its PLC says: by polling over three protocols, and by a subscription of OPC UA.

    python -m bench.plc_inputs

The PLC is a process of its own with a cycle of 10 ms. A time counts from the moment at which its program has written
the words. The ways take turns.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import queue
import random
import signal
import time
from collections import defaultdict
from collections.abc import Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from statistics import median
from typing import Any

from asyncua import Client, Node, ua

from patchline import config
from patchline.plant import plc_server
from patchline.plant.opcua_arrays import OpcUaArrays
from patchline.plc import connecting, register_map
from patchline.plc.loop_thread import LoopThread
from patchline.plc.register_map import Layout
from patchline.plc.station import Station
from patchline.plc.words import PlcError
from patchline.services.server import free_ports

_LAYOUT = Layout(gate=0, plc=1000, slots=64)
_RULES = config.PlcRules(timeout_ms=2000, gate_node=plc_server.GATE_NODE, plc_node=plc_server.PLC_NODE)
_EVENTS_NODE = 'ns=2;s="Patchline"."events"'  # the sequence numbers of triggers and product changes
_CYCLE_S, _HEARTBEAT_S = 0.01, 0.1
_ROUNDS, _TRIGGERS = 4, 60
_START_S = 120.0


@dataclass(frozen=True)
class Way:
    """A way to hear the PLC: every `poll_ms`, or when it publishes, at most every `publish_ms` (0: at once)."""

    kind: str
    poll_ms: int | None = None
    publish_ms: int | None = None

    def __str__(self) -> str:
        how = f"polled every {self.poll_ms} ms" if self.publish_ms is None else f"subscribed, {self.publish_ms} ms"
        return f"{self.kind}, {how}"


_WAYS = (
    *(Way(kind, poll_ms=poll_ms) for kind in plc_server.KINDS for poll_ms in (10, 20)),
    *(Way("opcua", publish_ms=publish_ms) for publish_ms in (0, 10, 50)),
)


class _Plc:
    """The PLC's side: triggers at random, and a product change as soon as the last one is acknowledged."""

    def __init__(self, kind: str, port: int) -> None:
        self._memory = plc_server.opener(kind, port, _LAYOUT)()
        self._memory.listen()
        self._events = _Events(self._memory) if isinstance(self._memory, OpcUaArrays) else None
        self._rng = random.Random(0)
        self._trigger_at = self._product_at = math.inf
        self._values: dict[str, register_map.Value] = {"version": register_map.VERSION, "category": 1}
        self.triggers: dict[int, float] = {}
        self.products: list[float] = []
        self._changed_at: float | None = None

    def start(self) -> None:
        self._trigger_at = self._product_at = time.monotonic()

    def cycle(self) -> None:
        now = time.monotonic()
        gate = register_map.GATE_HEADER.unpack(self._memory.read(_LAYOUT.gate, register_map.GATE_HEADER.words))
        product = self._values.get("category_sequence", 0)
        if self._changed_at is not None and gate["category_sequence"] == product:
            self.products.append(now - self._changed_at)
            self._changed_at, self._product_at = None, now + self._rng.uniform(0.1, 0.3)
        changed = False
        if now >= self._trigger_at and len(self.triggers) < _TRIGGERS:
            self._trigger_at, changed = now + self._rng.uniform(0.05, 0.15), True
            self._trigger(len(self.triggers) + 1)
        if now >= self._product_at and self._changed_at is None:
            self._values["category_sequence"], changed = product + 1, True
            self._changed_at = time.monotonic()
        self._values["heartbeat"] = register_map.next_sequence(int(self._values.get("heartbeat", 0)))
        self._memory.write(_LAYOUT.plc, register_map.PLC_HEADER.pack(self._values))
        if changed and self._events is not None:
            self._events.publish([int(self._values.get(f"{name}_sequence", 0)) for name in ("trigger", "category")])

    def _trigger(self, sequence: int) -> None:
        words = register_map.TRIGGER.pack({"number": sequence, "sequence": sequence})
        self._memory.write(_LAYOUT.trigger(sequence), words)
        self._values["trigger_sequence"] = sequence
        self.triggers[sequence] = time.monotonic()

    def close(self) -> None:
        self._memory.close()


class _Events:
    """A variable that a client can subscribe to."""

    def __init__(self, arrays: OpcUaArrays) -> None:
        self._server, self._thread = arrays._server, arrays._thread
        self._thread.run(self._add(), _START_S)

    def publish(self, words: list[int]) -> None:
        value = ua.DataValue(ua.Variant(words, ua.VariantType.UInt16, is_array=True))
        node = ua.NodeId.from_string(_EVENTS_NODE)
        self._thread.run(self._server.write_attribute_value(node, value), _START_S)

    async def _add(self) -> None:
        zeros = ua.Variant([0, 0], ua.VariantType.UInt16, is_array=True)
        await self._server.nodes.objects.add_variable(ua.NodeId.from_string(_EVENTS_NODE), "events", zeros)


def _run_plc(kind: str, port: int, pipe: Connection) -> None:
    """Run a PLC until the gate has seen all triggers. Then send what happened, and the CPU time of a second."""
    plc = _Plc(kind, port)
    pipe.send("runs")
    while not pipe.poll():
        plc.cycle()
        time.sleep(_CYCLE_S)
    pipe.recv()
    plc.start()
    started, used = time.monotonic(), time.process_time()
    due = started
    while not pipe.poll():
        plc.cycle()
        due = max(due + _CYCLE_S, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    load = (time.process_time() - used) / (time.monotonic() - started)
    pipe.send((plc.triggers, plc.products, load))
    plc.close()


class _Subscription:
    """Wakes a gate when the PLC publishes. It has a connection of its own."""

    def __init__(self, port: int, publish_ms: int) -> None:
        self.published: queue.Queue[None] = queue.Queue()
        self.lost: queue.Queue[Exception] = queue.Queue()
        self._client = Client(f"opc.tcp://{plc_server.HOST}:{port}/")
        self._client.connection_lost_callback = self._lose
        self._thread = LoopThread("subscription")
        self._thread.run(self._subscribe(publish_ms), _START_S)

    def datachange_notification(self, node: Node, value: Any, data: Any) -> None:
        """See asyncua."""
        self.published.put(None)

    def close(self) -> None:
        self._thread.run(self._client.disconnect(), _START_S)
        self._thread.close()

    async def _lose(self, error: Exception) -> None:
        self.lost.put(error)

    async def _subscribe(self, publish_ms: int) -> None:
        await self._client.connect()
        subscription = await self._client.create_subscription(publish_ms, self)
        await subscription.subscribe_data_change(self._client.get_node(_EVENTS_NODE))


def _wakings(way: Way, port: int) -> Generator[bool]:
    """Yield True when the gate is to read its PLC, and False when it only has to beat."""
    if way.poll_ms is not None:
        due = time.monotonic()
        while True:
            yield True
            due = max(due + way.poll_ms / 1000, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
    assert way.publish_ms is not None
    subscription = _Subscription(port, way.publish_ms)
    try:
        yield True
        while True:
            try:
                subscription.published.get(timeout=_HEARTBEAT_S)
                yield True
            except queue.Empty:
                yield False
    finally:
        subscription.close()


def _listen(way: Way, port: int, pipe: Connection) -> tuple[dict[int, float], float]:
    """Be a gate until it has seen all triggers. Return when it saw each, and the CPU time of a second."""
    address = plc_server.gate_address(way.kind, port)
    station = Station(connecting.open_memory(address, _RULES), _LAYOUT, time.monotonic)
    seen: dict[int, float] = {}
    product, beat_at = 0, 0.0
    wakings = _wakings(way, port)
    next(wakings)
    station.poll()  # finds the place in the rings
    pipe.send("go")
    started, used = time.monotonic(), time.process_time()
    for must_read in wakings:
        if must_read:
            report = station.poll()
            now = time.monotonic()
            seen |= {trigger.number: now for trigger in report.triggers}
            if report.category_sequence != product:
                product = report.category_sequence
                station.acknowledge(report.category, product)
        if time.monotonic() >= beat_at or station.owes_answer:
            station.beat(register_map.GateState.READY, {})
            beat_at = time.monotonic() + _HEARTBEAT_S
        if len(seen) >= _TRIGGERS:
            break
    wakings.close()
    load = (time.process_time() - used) / (time.monotonic() - started)
    station.close()
    return seen, load


def _start(kind: str) -> tuple[BaseProcess, Connection, int]:
    """Start a PLC. Return its process, a pipe to it, and its port."""
    (port,) = free_ports(1)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run_plc, args=(kind, port, there))
    process.start()
    here.recv()
    return process, here, port


def _silence() -> tuple[float, float]:
    """Suspend a PLC. Return after how many seconds a client that polls sees it, and one that has subscribed."""
    process, pipe, port = _start("opcua")
    rules = _RULES.model_copy(update={"timeout_ms": 200})
    memory = connecting.open_memory(plc_server.gate_address("opcua", port), rules)
    subscription = _Subscription(port, 10)
    assert process.pid is not None
    for _ in range(20):  # the first reads connect
        with contextlib.suppress(PlcError):
            memory.read(_LAYOUT.plc, 1)
    os.kill(process.pid, signal.SIGSTOP)
    at = time.monotonic()
    try:
        while time.monotonic() < at + _START_S:
            memory.read(_LAYOUT.plc, 1)
    except PlcError:
        polled = time.monotonic() - at
    subscription.lost.get(timeout=_START_S)
    subscribed = time.monotonic() - at
    process.kill()
    pipe.close()
    process.join()
    return polled, subscribed


def _round(way: Way) -> tuple[list[float], list[float], float, float]:
    """Return the times of triggers and product changes in seconds, and the load of gate and PLC."""
    process, here, port = _start(way.kind)
    seen, gate_load = _listen(way, port, here)
    here.send("stop")
    triggers, products, plc_load = here.recv()
    process.join(_START_S)
    return [seen[number] - at for number, at in triggers.items()], products, gate_load, plc_load


def main() -> None:
    """Measure all ways, and print a table."""
    results: dict[Way, list[tuple[list[float], list[float], float, float]]] = defaultdict(list)
    for _ in range(_ROUNDS):
        for way in _WAYS:
            results[way].append(_round(way))
    print("| way | trigger seen, ms median (p99) | product acknowledged, ms median (max) | gate's CPU | PLC's CPU |")
    print("|---|---|---|---|---|")
    for way, rounds in results.items():
        triggers = sorted(1000 * seconds for times, _, _, _ in rounds for seconds in times)
        products = sorted(1000 * seconds for _, times, _, _ in rounds for seconds in times)
        p99 = triggers[round(0.99 * (len(triggers) - 1))]
        loads = [f"{100 * median(loads):.1f} %" for loads in zip(*(row[2:] for row in rounds), strict=True)]
        ack = f"{median(products):.0f} ({products[-1]:.0f})" if products else "-"
        print(f"| {way} | {median(triggers):.1f} ({p99:.1f}) | {ack} | {loads[0]} | {loads[1]} |")
    polled, subscribed = _silence()
    print(f"a suspended PLC is seen after {polled:.1f} s by polling, after {subscribed:.1f} s by a subscription")


if __name__ == "__main__":
    main()
