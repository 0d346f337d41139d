"""A belt and its PLC in real time, as a process: a server for the gate, triggers for a camera, and a ledger.

    python -m patchline.plant.simulator --port 1502 --pictures pictures.txt --ledger ledger.jsonl

It obeys commands on its standard input, one a line, and ends with it: `restart SECONDS` (of the PLC), `reset SECONDS`
(the same, and its retained memory is lost), `freeze SECONDS`, `product CODE`, `run` (with `--hold`), `start` (after the
gate has stopped the line), and `finish`: no more parts come. The ledger says when the belt is empty. The PLC stays on,
because a gate may still have to say what it did. With `--view`, a file shows what lies before the camera.
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from patchline.plant import motion, plc_server
from patchline.plant.belt import Belt, Geometry
from patchline.plant.ledger import Ledger
from patchline.plant.line import CYCLE_S, Line, Shot, plc_settings
from patchline.plant.plc_server import HOST, PlcServer
from patchline.plc.register_map import Layout
from patchline.runtime import logs

_CATCH_UP_S = 0.03  # a belt that is later than this stands still meanwhile: a PLC's cycle is never late


class Simulator:
    """The line, the server of its PLC, and the commands. The belt goes on while the server starts or ends.

    Args:
        line: the belt and its PLC.
        belt: the belt of the line.
        open_memory: returns the PLC's memory with its server, all words 0. It does not listen yet.
        shoot: takes a picture.
        record: see `Ledger`.
    """

    def __init__(
        self,
        line: Line,
        belt: Belt,
        open_memory: Callable[[], PlcServer],
        shoot: Callable[[Shot], None],
        record: Callable[..., None],
    ) -> None:
        self._line, self._belt = line, belt
        self._open_memory, self._shoot, self._record = open_memory, shoot, record
        self._memory: PlcServer | None = None
        self._power = ThreadPoolExecutor(1, "power")  # starts and ends servers, one after the other
        self._listening: Future[None] | None = None
        self._ending: Future[None] | None = None
        self._resume_at: float | None = None
        self._start()

    def obey(self, command: str, now: float) -> None:
        """Obey a command. One that comes while the PLC is frozen or off changes how long it is."""
        name, *values = command.split()
        if name in ("restart", "reset"):
            self._switch_off(keeps_memory=name == "restart")
            self._resume_at = now + float(values[0])
        elif name == "freeze":
            self._line.freeze_plc(True)
            self._resume_at = now + float(values[0])
        elif name == "product":
            self._line.change_product(int(values[0]))
        elif name == "start":
            self._line.start()
        elif name == "run":
            self._line.is_held = False
        elif name == "finish":
            self._belt.parts = self._belt.placed
        else:
            raise ValueError(f"unknown command: {command!r}")

    def cycle(self, now: float) -> None:
        """Let one cycle of the PLC pass."""
        if self._resume_at is not None and now >= self._resume_at:
            self._resume_at = None
            if self._memory is None:
                self._start()
            else:
                self._line.freeze_plc(False)
        for shot in self._line.cycle():
            self._shoot(shot)
        if self._memory is not None and self._listening is None:  # the program has written its header
            self._listening = self._power.submit(self._memory.listen)
        if self._listening is not None and self._listening.done():
            self._listening.result()

    def close(self) -> None:
        """Close the server."""
        self._switch_off()
        self._power.shutdown()

    def _start(self) -> None:
        if self._ending is not None:
            self._ending.result()
        self._memory, self._listening = self._open_memory(), None
        self._line.start_plc(self._memory)

    def _switch_off(self, keeps_memory: bool = True) -> None:
        if self._memory is not None:
            self._line.stop_plc(keeps_memory)
            self._ending = self._power.submit(self._memory.close)
            self._memory = None


class View:
    """What lies before the camera, as a symbolic link to its picture. It never leads nowhere."""

    def __init__(self, link: Path) -> None:
        self._link, self._next = link, link.with_name(f".{link.name}.next")
        self._next.unlink(missing_ok=True)

    def show(self, picture: str) -> None:
        """Lead the link to another picture."""
        self._next.symlink_to(Path(picture).resolve())
        self._next.replace(self._link)


def run(simulator: Simulator, line: Line, commands: queue.Queue[str | None], ledger: Ledger, cycle_s: float) -> None:
    """Run until the commands end. Each cycle takes `cycle_s` seconds.

    A machine that is too slow makes the belt stand, and not the PLC late.
    """
    due, was_empty = time.monotonic(), False
    while True:
        now = time.monotonic()
        while not commands.empty():
            command = commands.get()
            if command is None:
                return
            simulator.obey(command, now)
        simulator.cycle(now)
        if line.is_empty and not was_empty:
            was_empty = True
            ledger.record("empty")
        ledger.flush()
        due += cycle_s
        late = time.monotonic() - due
        if late > _CATCH_UP_S:
            ledger.record("stall", seconds=round(late, 4))
            due += late
        time.sleep(max(0.0, -late))


def geometry_of(rate: float, arm_s: float) -> tuple[Geometry, float]:
    """Return a belt that carries `rate` parts a second, and its full speed in mm/s.

    At full speed a part is at the arm `arm_s` seconds after the trigger.
    """
    base = Geometry()
    speed = base.pitch_mm * rate
    arm_mm = round(arm_s * speed, 1)
    return Geometry(arm_mm=arm_mm, sensor_mm=arm_mm + 60.0, end_mm=arm_mm + 200.0), speed


def main() -> None:
    """Run the process."""
    logs.configure()
    arguments = _arguments()
    geometry, speed = geometry_of(arguments.rate, arguments.arm_s)
    layout = Layout(gate=0, plc=arguments.plc_start, slots=arguments.slots)
    pictures = arguments.pictures.read_text(encoding="utf-8").splitlines()
    order = random.Random(arguments.seed)
    with arguments.ledger.open("a", encoding="utf-8") as file, socket.socket(type=socket.SOCK_DGRAM) as camera:
        ledger = Ledger(file)
        belt = Belt(
            geometry,
            lambda _: order.choice(pictures),
            random.Random(arguments.seed),
            arguments.first_count,
            arguments.parts,
        )
        speeds = motion.steady(speed)
        if arguments.motion == "varied":
            speeds = motion.varied(speed, random.Random(arguments.seed), CYCLE_S)
        show = (lambda _: None) if arguments.view is None else View(arguments.view).show
        line = Line(belt, plc_settings(geometry, layout, speed), speeds, ledger.record, show)
        line.is_held = arguments.hold

        def shoot(shot: Shot) -> None:
            message = {**vars(shot), "captured_at": time.time_ns() // 1_000_000}
            camera.sendto(json.dumps(message).encode(), (HOST, arguments.camera_port))

        open_memory = plc_server.opener(arguments.plc, arguments.port, layout)
        simulator = Simulator(line, belt, open_memory, shoot, ledger.record)
        try:
            run(simulator, line, _commands(), ledger, CYCLE_S / arguments.factor)
        finally:
            simulator.close()


def _commands() -> queue.Queue[str | None]:
    """Return the lines of the standard input as they come, then None."""
    commands: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for text in sys.stdin:
            if text.strip():
                commands.put(text)
        commands.put(None)

    threading.Thread(target=read, name="commands", daemon=True).start()
    return commands


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m patchline.plant.simulator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=int, required=True, help="TCP port of the PLC's server on loopback")
    parser.add_argument("--plc", choices=plc_server.KINDS, default="modbus", help="protocol of that server")
    parser.add_argument("--camera-port", type=int, required=True, help="UDP port of the camera on loopback")
    parser.add_argument("--pictures", type=Path, required=True, help="file with one path of a picture a line")
    parser.add_argument("--ledger", type=Path, required=True, help="file for what happens, as lines of JSON")
    parser.add_argument("--view", type=Path, default=None, help="link that is to lead to the picture before the camera")
    parser.add_argument("--parts", type=int, default=None, help="number of parts; without it until `finish`")
    parser.add_argument("--hold", action="store_true", help="the belt stands until the command `run`")
    parser.add_argument("--rate", type=float, default=20.0, help="parts per second at full speed")
    parser.add_argument("--arm-s", type=float, default=2.0, help="seconds from the trigger to the arm at full speed")
    parser.add_argument("--motion", choices=("steady", "varied"), default="varied")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first-count", type=int, default=0, help="the encoder's count at the start")
    parser.add_argument("--slots", type=int, default=128)
    parser.add_argument("--plc-start", type=int, default=2000, help="number of the first word that the PLC writes")
    parser.add_argument("--factor", type=float, default=1.0, help="how much faster than real the time passes")
    return parser.parse_args()


if __name__ == "__main__":
    main()
