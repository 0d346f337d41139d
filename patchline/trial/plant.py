"""The life of a trial: starts a plant's servers and processes, keeps them running, and ends them in order."""

from __future__ import annotations

import os
import shlex
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from patchline import config
from patchline.banks import fitted, opening
from patchline.protocol.errors import SetupError
from patchline.runtime import disk
from patchline.services import server
from patchline.trial import folder_lock, lines, memory, ports, processes, room, servers
from patchline.trial.child import Child
from patchline.trial.lines import WatchedLine
from patchline.trial.memory import Memory
from patchline.trial.processes import Launcher, Program
from patchline.trial.servers import Servers

FOLDER = "up"  # in the plant's folder
_STEP_S, _LOOK_S = 0.2, 2.0
_END_S = 45.0  # of a group of processes; a worker drains for worker.drain_s
Say = Callable[[str, str], None]


class Trial:
    """The children of a plant on one host.

    Args:
        config_file: of the plant.
        device: of the worker.
        say: takes what people should know: a name, and a text.
    """

    def __init__(self, config_file: Path, device: str, say: Say) -> None:
        self._file, self._device, self._say = config_file, device, say
        self._settings = config.load(config_file)
        self._read_at = config_file.stat().st_mtime_ns
        self._home = config_file.parent / FOLDER
        self._hand_in = self._home / "hand-in"
        self._children: dict[str, Child] = {}
        self._groups: list[list[str]] = []
        self._served: dict[str, str] = {}
        self._looked_at = 0.0
        self._room = room.Room(config_file.parent, room.limits(self._settings), lambda text: say("disk", text))
        self._told = False
        self.address = ""

    def run(self, stop: threading.Event, welcome: Callable[[str], None]) -> None:
        """Run the plant until `stop` is set, then end everything in order. Nothing that a process has taken is lost.

        Args:
            stop: ends the trial.
            welcome: is called with the console's address once its pages can be opened.

        Raises:
            SetupError: another trial of this folder runs, a file cannot be used, or RabbitMQ does not answer.
            DiskFull: there is no room for what a start writes.
            ServiceError: a server is not installed, or has no free port.
        """
        with disk.told(self._home), ExitStack() as stack:
            remembered, lock = self._claim(stop)
            if lock is None:
                return
            stack.callback(os.close, lock)
            watched = lines.of_plant(self._file.parent, self._settings)
            hosts = (self._settings.console.host, self._settings.worker.metrics_host)
            claims = stack.enter_context(ports.Claims(hosts))
            found = servers.choose(self._settings, self._home, remembered, claims.choose)
            chosen = claims.choose(processes.wanted_ports(self._settings, watched))
            self.address = address(self._settings.console, chosen["pages"])
            remembered.console = self.address
            remembered.save()
            self._tell_of_folders(watched)
            self._make_hand_in(watched)
            self._make(found, watched, chosen, lock)
            stack.callback(self._end)
            welcomed = False
            while not stop.is_set():
                self.step(time.monotonic())
                if not welcomed and self._children["console"].ready:
                    welcomed = True
                    welcome(self.address)
                stop.wait(_STEP_S)

    def step(self, now: float) -> None:
        """Watch all children once, and every two seconds the memory banks and the disk."""
        if now - self._looked_at >= _LOOK_S:
            self._looked_at = now
            self._room.look()
            self._look_for_banks()
        for child in self._children.values():
            child.step(now)

    def _claim(self, stop: threading.Event) -> tuple[Memory, int | None]:
        """Return what the last start has left to know, and the lock on the folder; None: `stop` was set before."""
        try:
            self._home.mkdir(mode=0o700, exist_ok=True)
            (self._home / "logs").mkdir(exist_ok=True)
            remembered = memory.read(self._home / "state.json")
            at = f"; its console is at {remembered.console}" if remembered.console else ""
            text = f"{self._file.parent}: patchline up runs here already{at}"
            lock = folder_lock.claim(self._home / "lock", text, stop, lambda said: self._say("up", said))
        except OSError as error:
            raise disk.unwritable(self._home, error) from error
        return remembered, lock

    def _make(self, found: Servers, watched: Sequence[WatchedLine], chosen: Mapping[str, int], lock: int) -> None:
        for name, text in found.used:
            self._say(name, text)
        self._write_environment(found.environment)
        host = self._settings.worker.metrics_host
        launcher = Launcher(self._file, self._home / "logs", found.environment, host, self._say, (lock,))
        private = {one.name: launcher.server(one) for one in found.own}
        self._children |= private
        made = processes.programs(chosen, watched, self._device, self._hand_in)
        for program in made:
            self._children[program.name] = launcher.child(program, self._may_start(program, tuple(private)))
        publishers = [program.name for program in made if program.name.startswith(("publisher ", "hand-in "))]
        gates = [program.name for program in made if program.name.startswith("gate ")]
        # Nothing new comes in, then the worker finishes, and who has its verdicts to write ends after it.
        self._groups = [[*publishers, "console"], ["worker"], [*gates, "archive"], [*private]]

    def _tell_of_folders(self, watched: Sequence[WatchedLine]) -> None:
        """Name each folder that is not of this plant: the files of a plant that was copied name those of the first."""
        for line in watched:
            if not line.folder.resolve().is_relative_to(self._file.parent.resolve()):
                text = f"watches {line.folder}, which is not in this plant's folder; publisher-{line.name}.env says so"
                self._say(f"publisher {line.name}", text)

    def _make_hand_in(self, watched: Sequence[WatchedLine]) -> None:
        """Make a folder for each line, so that pictures can be sent to it in the console."""
        try:
            for line in watched:
                (self._hand_in / line.name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk.unwritable(self._hand_in, error) from error

    def _write_environment(self, environment: Mapping[str, str]) -> None:
        """Write what other terminals need to use the private servers."""
        file = self._home / "urls.env"
        try:
            rows = [f"export {name}={shlex.quote(value)}\n" for name, value in environment.items()]
            file.touch(mode=0o600)
            file.write_text("".join(rows), encoding="utf-8")
        except OSError as error:
            raise disk.unwritable(file, error) from error

    def _may_start(self, program: Program, private: tuple[str, ...]) -> Callable[[], bool]:
        def may_start() -> bool:
            is_fitted = program.name != "worker" or bool(self._served)
            return is_fitted and all(self._children[name].was_ready for name in (*private, *program.needs))

        return may_start

    def _look_for_banks(self) -> None:
        """Let the worker start with the first memory bank, and start it anew for each that it cannot know."""
        self._reload()
        copies = opening.copies(self._settings)
        banks = fitted.banks(self._settings, copies)
        new = [name for name, bank in banks.items() if is_new(self._served.get(name), bank)]
        if self._served and new:
            self._children["worker"].renew(f"there is a new memory bank of {', '.join(new)}")
        with suppress(SetupError):  # a running worker finds these by itself
            banks |= dict.fromkeys(fitted.new_categories(self._settings, copies), fitted.IN_STORE)
        self._served |= banks
        if not self._served and not self._told and self._children["console"].ready:
            self._told = True
            self._say("worker", f"waits for a memory bank: teach a category at {self.address}teach, or: patchline fit")

    def _reload(self) -> None:
        """Read the configuration again if it has changed: a category may be new."""
        try:
            read_at = self._file.stat().st_mtime_ns
            if read_at != self._read_at:
                self._read_at = read_at
                self._settings = config.load(self._file)
                for child in [child for child in self._children.values() if child.given_up]:
                    child.renew("the configuration has changed")
        except (OSError, SetupError) as error:
            self._say("config", f"{error}; the one before is used")

    def _end(self) -> None:
        for names in self._groups:
            group = [child for child in map(self._children.__getitem__, names) if child.process is not None]
            for child in group:
                child.stop()
            deadline = time.monotonic() + _END_S
            for child in group:
                while child.process is not None and child.process.poll() is None and time.monotonic() < deadline:
                    time.sleep(0.05)
                self._say(child.name, "ended")


def is_new(served: str | None, bank: str) -> bool:
    """Return True if a worker that has served one bank of a category must be started anew for another.

    Args:
        served: what `fitted.banks` said when the worker started; None: the category had no bank.
        bank: what it says now. Versions of a store are switched by the worker itself.
    """
    return served is None or (bank != served and fitted.IN_STORE not in (bank, served))


def address(section: config.Console, port: int) -> str:
    """Return the url of the pages, for a browser on this host."""
    scheme = "https" if section.cert_file else "http"
    host = server.HOST if section.host in ("0.0.0.0", "::", "") else section.host
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{section.prefix}/"
