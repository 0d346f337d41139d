"""`python -m bench.photo_to_coil`: from the trigger of a part until its PLC has the result, through RabbitMQ.

The belt of `patchline/plant` carries 36 parts a second past a camera. Camera, worker, gate, RabbitMQ, Redis and the PLC
share the cores. Their times are compared with the sum of the stages, each of which is measured alone before. The last
rows say what the disk under RabbitMQ takes, where the slowest parts spend their time, and what each process costs.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import coil_legs, coil_stages, plant, process_costs
from bench import line as lines
from bench.coil_legs import Legs
from bench.coil_stages import LINE
from bench.line import Line
from bench.plant import DEFAULT
from bench.table import Row, of_this_machine, ratio_row
from patchline import config
from patchline.plant import starting
from patchline.plant.ledger import Event, LedgerReader
from patchline.plant.line import CYCLE_S, gate_settings, plc_settings
from patchline.plant.plc_server import gate_address
from patchline.plant.simulator import geometry_of
from patchline.plc.register_map import Code, Layout
from patchline.protocol import topology
from patchline.protocol.messages import Verdict
from patchline.runtime import logs
from patchline.services import server

RATE, PARTS = 36.0, 3000
_GATE = "bench"
_PNG = "image/png"
_ARM_S = 2.5
_DEADLINE_MS = 2000
_LAYOUT = Layout(gate=0, plc=2000, slots=128)
_PICTURES = 100
_WARM_UP = 50  # parts, which are not counted
_TIMEOUT_S = 120.0
_JUDGED = (Code.PASS, Code.REVIEW, Code.FAIL)
_COMMANDS = {
    "the worker": "-m patchline worker",
    "the gate": "-m patchline gate",
    "the camera": "-m patchline.plant.camera",
    "RabbitMQ": "beam.smp",
    "Redis": "redis-server",
    "the simulated PLC": "-m patchline.plant.simulator",
}


@dataclass
class Run:
    """What the PLC's program saw.

    Attributes:
        triggers: when each part was triggered, by number.
        results: when its result was read, and why it is as it is.
        stalled_s: for so long the belt stood, because the machine was too slow.
        legs: the ways of the parts that were judged and count.
        core_ms: the CPU time of each process, by `_COMMANDS`.
        flushes_ms: what the disk took to keep a page, just before and after.
    """

    triggers: dict[int, float] = field(default_factory=dict)
    results: dict[int, tuple[float, Code]] = field(default_factory=dict)
    stalled_s: float = 0.0
    is_empty: bool = False
    legs: list[Legs] = field(default_factory=list)
    core_ms: dict[str, float] = field(default_factory=dict)
    flushes_ms: list[float] = field(default_factory=list)

    def on_events(self, events: list[Event]) -> None:
        """Take note of events of the ledger."""
        for event in events:
            if event["kind"] == "trigger":
                self.triggers[event["number"]] = event["at"]
            elif event["kind"] == "result":
                self.results.setdefault(event["number"], (event["at"], Code(event["code"])))
            elif event["kind"] == "stall":
                self.stalled_s += event["seconds"]
            self.is_empty = self.is_empty or event["kind"] == "empty"

    def latencies_ms(self) -> list[float]:
        """Return the times of all parts that were judged."""
        return [1000 * (at - self.triggers[number]) for number, at in self._judged().items()]

    def follow(self, verdicts: Iterable[Verdict], epoch_s: float) -> None:
        """Take note of the way of each part that was judged and counts.

        Args:
            verdicts: of all parts.
            epoch_s: the epoch time at 0 of the clock of the ledger.
        """
        judged = self._judged()
        self.legs = [
            Legs.of(
                1000 * (epoch_s + self.triggers[verdict.number]), verdict, 1000 * (epoch_s + judged[verdict.number])
            )
            for verdict in verdicts
            if verdict.number in judged
        ]

    def _judged(self) -> dict[int, float]:
        """When the result of each part that was judged and counts was read, by number."""
        return {number: at for number, (at, code) in self.results.items() if code in _JUDGED and number > _WARM_UP}

    @property
    def lost(self) -> int:
        """The number of parts without the result of a judgement."""
        return len(self.triggers) - sum(code in _JUDGED for _, code in self.results.values())

    @property
    def rate(self) -> float:
        """Parts per second."""
        times = sorted(self.triggers.values())
        return (len(times) - 1) / (times[-1] - times[0])


def main() -> None:
    """Measure, print, and write `out/photo-to-coil.json`."""
    parser = argparse.ArgumentParser(prog="python -m bench.photo_to_coil", description=__doc__)
    parser.add_argument("--parts", type=int, default=PARTS)
    parser.add_argument("--rate", type=float, default=RATE, help="parts per second")
    options = parser.parse_args()
    logs.configure("error")
    with tempfile.TemporaryDirectory() as name:
        stages, run = measure(Path(name), config.load(Path("config.yaml")), options.parts, options.rate)
    table = of_this_machine(list(_rows(stages, run)))
    table.show()
    print(
        f"{len(run.triggers)} parts, {run.rate:.1f} a second, {run.lost} lost; belt stalled for {run.stalled_s:.1f} s"
    )
    table.write(Path("out/photo-to-coil.json"))


def measure(folder: Path, settings: config.Config, parts: int, rate: float) -> tuple[dict[str, float], Run]:
    """Measure each stage alone in ms, then run the belt."""
    geometry, speed = geometry_of(rate, _ARM_S)
    section = gate_settings(plc_settings(geometry, _LAYOUT, speed), _ARM_S)
    built = plant.build(folder, settings.paths.models, (DEFAULT,))
    built = built.model_copy(update={"plc": config.Plc(lines={LINE: dict(section)})})
    config.save(built, folder / "config.yaml")
    images = plant.pictures(_PICTURES, _PNG)
    with lines.running(folder, built) as line:
        os.environ["PATCHLINE_AMQP_URL"] = line.servers.amqp_url  # for the publisher in this process
        line.broker.declare(topology.gate(LINE, [_GATE]))
        stages = {"publish and confirm": coil_stages.publish_ms(line, images[0])}
        stages |= coil_stages.inspection_ms(line, images, _PNG)
        verdict_ms = coil_stages.verdict_ms(line)
        with _belt(line, images, parts + _WARM_UP, rate) as belt:
            plc_ms = coil_stages.plc_ms(_LAYOUT, belt.plc_port)
            to_plc_ms = coil_stages.verdict_to_plc_ms(line, _LAYOUT, belt.plc_port)
            stages["publish and confirm a verdict"] = verdict_ms
            stages["gate"] = max(0.0, to_plc_ms - verdict_ms - plc_ms)
            stages["write to the PLC, and read back"] = plc_ms
            stages["half a cycle of the PLC"] = 1000 * CYCLE_S / 2
            line.verdicts(2 * coil_stages.REPEATS)
            with line.workers(DEFAULT) as workers, _camera(line, belt.camera_port):
                lines.wait_until_ready(workers)
                flushes_ms = coil_stages.flushes_ms(folder)
                before = process_costs.cpu_seconds_of_commands(_COMMANDS)
                run = belt.carry(parts)
                after = process_costs.cpu_seconds_of_commands(_COMMANDS)
            run.flushes_ms = flushes_ms + coil_stages.flushes_ms(folder)
            run.core_ms = {name: 1000 * (after[name] - before[name]) for name in _COMMANDS}
            run.follow(line.verdicts(len(run.triggers) - run.lost), time.time() - time.monotonic())
            return stages, run


@dataclass(frozen=True)
class _Belt:
    """The running simulator and its gate."""

    plc_port: int
    camera_port: int
    ledger: LedgerReader
    start: Callable[[], None]

    def carry(self, parts: int) -> Run:
        """Let the belt run until it is empty."""
        run = Run()
        self.start()
        deadline = time.monotonic() + _TIMEOUT_S + parts  # one a second is too slow for any figure
        while not run.is_empty:
            run.on_events(self.ledger.read())
            if time.monotonic() > deadline:
                raise server.ServiceError(f"the belt of the benchmark stands after {len(run.triggers)} parts")
            time.sleep(0.5)
        return run


@contextmanager
def _belt(line: Line, images: list[bytes], parts: int, rate: float) -> Iterator[_Belt]:
    """Start gate and simulator. The belt stands."""
    folder = line.folder
    plc_port, camera_port, gate_port = server.free_ports(3)
    options = ["--line", LINE, "--instance", _GATE, "--output", gate_address("modbus", plc_port)]
    gate = ["-m", "patchline", "gate", *options, "--metrics-port", str(gate_port)]
    simulator = starting.simulator(
        folder / "simulator.log",
        _LAYOUT,
        port=plc_port,
        camera_port=camera_port,
        pictures=_write_pictures(folder, images),
        ledger=folder / "ledger.jsonl",
        parts=parts,
        rate=rate,
        arm_s=_ARM_S,
        motion="steady",
    )
    with simulator as process, _process(line, "gate", gate):
        _wait(lambda: server.responds(f"http://{server.HOST}:{gate_port}/readyz"), "the gate is not ready")
        yield _Belt(plc_port, camera_port, LedgerReader(folder / "ledger.jsonl"), lambda: starting.run_belt(process))


@contextmanager
def _camera(line: Line, port: int) -> Iterator[None]:
    options = ["--line", LINE, "--category", DEFAULT, "--port", str(port), "--deadline-ms", str(_DEADLINE_MS)]
    with _process(line, "camera", ["-m", "patchline.plant.camera", *options]):
        starting.wait_for_camera(port, _TIMEOUT_S)
        yield


@contextmanager
def _process(line: Line, name: str, arguments: list[str]) -> Iterator[None]:
    command = [sys.executable, *arguments, "--config", str(line.folder / "config.yaml")]
    environment = {"PATCHLINE_AMQP_URL": line.servers.amqp_url, "PATCHLINE_REDIS_URL": line.servers.redis_url}
    with (line.folder / f"{name}.log").open("wb") as log:
        guard = server.start_guarded(command, log, log, environment)
        try:
            yield
        finally:
            server.stop_guarded(guard)


def _write_pictures(folder: Path, images: list[bytes]) -> Path:
    paths = [folder / f"picture-{number:03}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image)
    (folder / "pictures.txt").write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    return folder / "pictures.txt"


def _wait(condition: Callable[[], bool], message: str) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise server.ServiceError(f"{message} in time; see its log")
        time.sleep(0.1)


def _rows(stages: dict[str, float], run: Run) -> Iterator[Row]:
    """Return a row for each stage, and the time on the belt against the sum of all."""
    total = sum(stages.values())
    for stage, duration_ms in stages.items():
        yield ratio_row(f"{stage} : all stages", "ms", duration_ms, total)
    latencies = run.latencies_ms()
    for what, times_ms in (("photo to coil", latencies), ("flush of the disk", run.flushes_ms)):
        for name, share in (("median", 0.5), ("p99", 0.99), ("max", 1.0)):
            yield ratio_row(f"{what}, {name} : all stages alone", "ms", lines.quantile(times_ms, share), total)
    yield from coil_legs.rows(run.legs)
    yield from coil_legs.cost_rows(run.core_ms, len(run.triggers), run.rate)


if __name__ == "__main__":
    main()
