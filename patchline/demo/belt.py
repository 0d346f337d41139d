"""Runs a simulated belt with pictures of solar cells, and shows it while it runs.

The processes are those of a plant: a camera, RabbitMQ, Redis, a worker, an archive, a gate, and a PLC that the gate
reaches over Modbus. Belt, arm and the PLC's program are simulated (`patchline/plant`).
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from patchline import config
from patchline.banks import fit
from patchline.banks.choices import Choices
from patchline.broker.base import QueueConsumer
from patchline.demo import archived, belt_view, cells, folder, watched
from patchline.demo.belt_parts import BeltParts
from patchline.demo.processes import Processes, wait_until_ready
from patchline.demo.watched import Watch
from patchline.plant import starting
from patchline.plant.belt import Geometry
from patchline.plant.ledger import LedgerReader
from patchline.plant.line import gate_settings, plc_settings
from patchline.plant.plc_server import gate_address
from patchline.plant.simulator import geometry_of
from patchline.plc.register_map import Layout
from patchline.protocol import messages, topology
from patchline.protocol.errors import SetupError
from patchline.runtime import connections, signals, terminal
from patchline.services import private_servers, server

LINE, CATEGORY, GATE = "belt", "solar_cell_mono", "demo"
_FITTED = 99  # good cells: as few as are enough for a target of 1 %, so that the belt starts soon
_ARM_S = 3.0  # from the camera to the arm
_DEADLINE_MS = 2000
_LAYOUT = Layout(gate=0, plc=1000, slots=64)
_GOOD_SHARE = 9  # good cells to one with a defect
_FRAME_S = 0.1
_START_S = 60.0
_END_S = 60.0


def run(settings: config.Config, out: Path, parts: int, rate: float, watch: Watch | None = None) -> None:
    """Run the belt until `parts` parts lie in a bin, or until Ctrl-C.

    Args:
        settings: the configuration.
        out: a folder for everything that is written.
        parts: number of parts.
        rate: parts per second.
        watch: shows the belt in the browser too, and stays until Ctrl-C; None: there is no console.

    Raises:
        SetupError: the images are not installed, `out` holds other files, or a part without a verdict `pass` is in the
            good bin.
        ServiceError: a server is not installed or does not start.
    """
    cells.data_folder()
    with folder.claimed(out):
        _run(settings, out, parts, rate, watch)


def _run(settings: config.Config, out: Path, parts: int, rate: float, watch: Watch | None) -> None:
    cells.link_images(out / "images", CATEGORY, _FITTED)
    geometry, speed = geometry_of(rate, _ARM_S)
    measured = plc_settings(geometry, _LAYOUT, speed)
    plc = config.Plc(lines={LINE: dict(gate_settings(measured, _ARM_S))})
    settings = archived.settings_for(settings.model_copy(update={"plc": plc}))
    settings = folder.settings_for(settings, out, [CATEGORY])
    good = out / "images" / "train" / "good"
    accepted = [name for name in cells.ACCEPTED[CATEGORY] if (good / name).exists()]
    fit.fit(settings, CATEGORY, good, seed=0, choices=Choices(accepted=accepted, out=out))
    print(f"servers: {private_servers.describe()}", file=sys.stderr)
    with private_servers.running() as servers:
        settings = config.with_urls(settings, servers.amqp_url, servers.redis_url)
        environment = {"PATCHLINE_AMQP_URL": servers.amqp_url, "PATCHLINE_REDIS_URL": servers.redis_url}
        processes = Processes(out, environment | archived.ENVIRONMENT)
        with _line(settings, processes, parts, rate, watch) as line, signals.stop_event() as stop:
            result = line.watch(stop, geometry, f"{parts} solar cells, {rate:g} a second. Ctrl-C ends all.")
            verdicts = [part.verdict for part in result.parts.values() if part.verdict is not None]
            not_archived = archived.wait(settings, verdicts)
            terminal.table("belt", ["", "value"], belt_view.summary(result))
            if watch is not None:
                watched.stay(stop)
    if wrong := result.without_pass():
        raise SetupError(f"{len(wrong)} parts lie in the good bin without a verdict pass; see {out}")
    if not_archived:
        raise SetupError(f"the archive lacks {not_archived} verdicts; see {out}")
    archived.show(settings, verdicts, out)


@dataclass(frozen=True)
class _Line:
    """The running belt: its ledger, its verdicts, and its simulator."""

    ledger: LedgerReader
    verdicts: QueueConsumer
    simulator: subprocess.Popen[bytes]

    def watch(self, stop: threading.Event, geometry: Geometry, title: str) -> BeltParts:
        """Show the belt until it is empty, or until `stop` is set. Return all parts."""
        parts = BeltParts()
        with ExitStack() as stack:
            screen = stack.enter_context(terminal.Screen()) if terminal.is_terminal() else None
            runs = False
            while not stop.is_set() and not parts.is_empty:
                before = len(parts.finished)
                self._update(parts)
                if not runs and parts.objection is None:
                    starting.run_belt(self.simulator)
                    runs = True
                if screen is not None:
                    screen.draw(belt_view.drawing(parts, geometry, time.monotonic(), screen.width, title))
                for part in parts.finished[before:] if screen is None else ():
                    print(belt_view.sentence(part), flush=True)
                stop.wait(_FRAME_S)
        self._wait_for_verdicts(parts)
        return parts

    def _wait_for_verdicts(self, parts: BeltParts) -> None:
        """Wait for verdicts that RabbitMQ has delivered to the gate, and not yet to this process."""
        deadline = time.monotonic() + _END_S
        while parts.without_pass() and time.monotonic() < deadline:
            self._update(parts)
            time.sleep(_FRAME_S)

    def _update(self, parts: BeltParts) -> None:
        if self.simulator.poll() is not None:
            raise SetupError("the simulator has ended; see simulator.log")
        received = []
        while (delivery := self.verdicts.take(0.0)) is not None:
            received.append(messages.parse_verdict(delivery.message))
            delivery.ack()
        parts.on_events(self.ledger.read())  # a verdict comes after its part's trigger
        for verdict in received:
            parts.on_verdict(verdict)


@contextmanager
def _line(
    settings: config.Config, processes: Processes, parts: int, rate: float, watch: Watch | None
) -> Iterator[_Line]:
    """Start all processes, the belt last."""
    plc_port, camera_port, worker_port, gate_port, archive_port = server.free_ports(5)
    with ExitStack() as stack, connections.connect(settings, "demo") as broker:
        broker.declare(connections.plant(settings))
        broker.declare(topology.gate(LINE, [GATE]))

        def start(name: str, module: str, *arguments: str) -> None:
            stack.enter_context(processes.running(name, module, *arguments))

        options = ("--metrics-port", str(gate_port), "--output", gate_address("modbus", plc_port))
        start("gate", "patchline", "gate", "--line", LINE, "--instance", GATE, *options)
        start("worker", "patchline", "worker", "--device", "cpu:0", "--metrics-port", str(worker_port))
        options = ("--port", str(camera_port), "--deadline-ms", str(_DEADLINE_MS))
        start("camera", "patchline.plant.camera", "--line", LINE, "--category", CATEGORY, *options)
        start("archive", "patchline", "archive", "--metrics-port", str(archive_port))
        consumer = archived.consume_verdicts(broker)
        wait_until_ready([worker_port, gate_port, archive_port], "worker, gate and archive")
        if watch is not None:
            stack.enter_context(watch.console(settings, processes))
        starting.wait_for_camera(camera_port, _START_S)
        out = processes.out
        belt = starting.simulator(
            out / "simulator.log",
            _LAYOUT,
            port=plc_port,
            camera_port=camera_port,
            pictures=_list_pictures(out),
            ledger=out / "ledger.jsonl",
            parts=parts,
            rate=rate,
            arm_s=_ARM_S,
            motion="steady",
        )
        simulator = stack.enter_context(belt)
        yield _Line(LedgerReader(processes.out / "ledger.jsonl"), consumer, simulator)


def _list_pictures(out: Path) -> Path:
    """Write the list of pictures for the belt, which takes one after the other at random."""
    images, file = out / "images" / "test", out / "pictures.txt"
    pictures = sorted((images / "good").iterdir()) * _GOOD_SHARE + sorted((images / "defect").iterdir())
    file.write_text("".join(f"{path}\n" for path in pictures), encoding="utf-8")
    return file
