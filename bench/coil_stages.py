"""The stages from a photo to the PLC, each one alone: one part at a time, and nothing else to do."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import rows
from bench.line import Line
from bench.plant import DEFAULT
from patchline.broker.base import Message
from patchline.inspection.search import exact_search
from patchline.plant.plc_server import HOST
from patchline.plc.modbus_client import ModbusClient
from patchline.plc.register_map import NO_COUNT, RESULT, Code, Layout, Result
from patchline.plc.station import Result as PartResult
from patchline.plc.station import Station
from patchline.protocol import messages, topology
from patchline.protocol.messages import Announcement, Decision, Verdict
from patchline.publisher.client import Client
from patchline.runtime import connections
from patchline.runtime.stopwatch import Stopwatch

LINE = "bench"
REPEATS = 100
_PAUSE_S = 0.02
_TIMEOUT_S = 30.0
_DEADLINE_MS = 60_000


def publish_ms(line: Line, image: bytes) -> float:
    """Return the time in which a part is announced and its image confirmed. The jobs are removed."""
    with Client.connect(line.folder / "config.yaml", LINE, DEFAULT) as client:
        median = _median_ms(lambda number: client.send(image, f"p{number}").result(_TIMEOUT_S))
    line.drain_jobs(DEFAULT)
    return median


def inspection_ms(line: Line, images: list[bytes], content_type: str) -> dict[str, float]:
    """Return the median of each stage of an inspection, on one thread. Most images pass, and have no heat map."""
    inspector = rows.load_inspector(line.settings, DEFAULT)
    durations: dict[str, list[float]] = {}
    exact_search.set_threads(1)
    for image in images:
        watch = Stopwatch(lambda stage, seconds: durations.setdefault(stage, []).append(seconds * 1000))
        inspector.inspect(image, content_type, watch.stage)
    often = {stage: values for stage, values in durations.items() if len(values) > len(images) / 2}
    return {stage: statistics.median(values) for stage, values in often.items()}


def verdict_ms(line: Line) -> float:
    """Return the time in which a verdict is published and confirmed."""
    return _median_ms(lambda number: _publish_verdict(line, number))


def plc_ms(layout: Layout, plc_port: int) -> float:
    """Return the time in which a result is written into the PLC and read back."""
    memory = ModbusClient(HOST, plc_port)
    station = Station(memory, layout, time.monotonic)
    result = PartResult(0, Result.REJECT, Code.OTHER, 0.0, NO_COUNT)
    median = _median_ms(lambda _: station.write_result(result))
    memory.close()
    return median


def verdict_to_plc_ms(line: Line, layout: Layout, plc_port: int) -> float:
    """Return the time from the publishing of a verdict until a running gate has written the result into the PLC."""
    memory = ModbusClient(HOST, plc_port)

    def work(number: int) -> None:
        number += 1_000_000  # of no part on the belt
        _announce(line, number)
        time.sleep(_PAUSE_S)
        started.append(time.perf_counter())
        _publish_verdict(line, number)
        deadline = time.perf_counter() + _TIMEOUT_S
        while RESULT.unpack(memory.read(layout.result(number), RESULT.words))["number"] != number:
            if time.perf_counter() > deadline:
                raise TimeoutError(f"the gate has not written the result of part {number}")
        ended.append(time.perf_counter())

    started: list[float] = []
    ended: list[float] = []
    _median_ms(work)
    memory.close()
    return statistics.median(1000 * (end - start) for start, end in zip(started, ended, strict=True))


def flushes_ms(folder: Path) -> list[float]:
    """Return the times in which the disk of a folder takes a page for good. RabbitMQ waits for one of each message."""
    with tempfile.TemporaryFile(dir=folder) as file:

        def work(_: int) -> None:
            os.write(file.fileno(), bytes(4096))
            os.fdatasync(file.fileno())

        return _durations_ms(work, 5 * REPEATS)


def _median_ms(work: Callable[[int], object]) -> float:
    return statistics.median(_durations_ms(work, REPEATS))


def _durations_ms(work: Callable[[int], object], repeats: int) -> list[float]:
    durations = []
    for number in range(repeats):
        started = time.perf_counter()
        work(number)
        durations.append(1000 * (time.perf_counter() - started))
        time.sleep(_PAUSE_S)
    return durations


def _announce(line: Line, number: int) -> None:
    now = connections.now_ms()
    part = Announcement(captured_at=now, deadline=now + _DEADLINE_MS, **_names(number))
    line.broker.publish(topology.PARTS, LINE, Message(b"", part.job_id, messages.PART_TYPE, None, part.headers()))


def _publish_verdict(line: Line, number: int) -> None:
    now = connections.now_ms()
    verdict = Verdict(
        decision=Decision.PASS,
        device="cpu:0",
        worker="bench",
        attempt=1,
        captured_at=now,
        received_at=now,
        decided_at=now,
        **_names(number),
    )
    message = Message(verdict.to_json(), verdict.job_id, messages.VERDICT_TYPE)
    line.broker.publish(topology.VERDICTS, verdict.routing_key, message)


def _names(number: int) -> dict[str, object]:
    return {
        "job_id": f"coil-{number}",
        "line": LINE,
        "category": DEFAULT,
        "part_id": f"n{number}",
        "number": number,
    }
