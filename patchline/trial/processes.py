"""The processes of a trial, in the order in which they start: servers, archive, console, worker, gates, publishers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from patchline import config
from patchline.runtime import health
from patchline.services import server
from patchline.services.server import Server
from patchline.trial import room
from patchline.trial.child import Child, Running
from patchline.trial.lines import WatchedLine

_LOG_BYTES = 10_000_000  # a log that is larger is put aside at the next start
_LAST_LINE = 300


@dataclass(frozen=True)
class Program:
    """A command of Patchline.

    Attributes:
        name: for people, and of its log.
        arguments: of `patchline`.
        port: of its metrics and probes.
        needs: the names of what must have been ready before it is started for the first time.
    """

    name: str
    arguments: tuple[str, ...]
    port: int
    needs: tuple[str, ...] = ()


def wanted_ports(settings: config.Config, lines: Sequence[WatchedLine]) -> dict[str, int]:
    """Return the ports that programs have without a trial, the most important first."""
    of_lines = {f"publisher {line.name}": line.publisher_port for line in lines}
    of_lines |= {f"gate {line.name}": line.gate_port for line in lines}
    of_lines |= {f"hand-in {line.name}": 0 for line in lines}
    first = {"pages": settings.console.port, "worker": settings.worker.metrics_port}
    return first | {"archive": 9140, "console": 9150} | of_lines


def programs(ports: Mapping[str, int], lines: Sequence[WatchedLine], device: str, hand_in: Path) -> list[Program]:
    """Return the programs of a plant. The archive comes first, since it makes the tables that the console reads.

    Pictures are sent once a worker can judge them: earlier ones would only become late. `hand_in` is the folder of
    those that people send in the console; each line has a publisher more for them, since a publisher has one folder.
    """
    pages = ("--port", str(ports["pages"]), "--hand-in", str(hand_in))
    found = [
        _program("archive", ("archive",), ports),
        _program("console", ("console", *pages), ports, ("archive",)),
        _program("worker", ("worker", "--device", device), ports, ("archive",)),
    ]
    for line in lines:
        of_line = ("--line", line.name)
        found.append(_program(f"gate {line.name}", ("gate", *of_line, "--dry-run"), ports, ("archive",)))
        watch = ("--category", line.category, "--watch", str(line.folder))
        needs = ("worker", f"gate {line.name}")
        found.append(_program(f"publisher {line.name}", ("publish", *of_line, *watch), ports, needs))
        handed = ("--watch", "--hand-in", str(hand_in))
        found.append(_program(f"hand-in {line.name}", ("publish", *of_line, *handed), ports, needs))
    return found


def _program(name: str, arguments: tuple[str, ...], ports: Mapping[str, int], needs: tuple[str, ...] = ()) -> Program:
    return Program(name, (*arguments, "--metrics-port", str(ports[name])), ports[name], needs)


@dataclass(frozen=True)
class Launcher:
    """Makes children of programs and servers.

    Attributes:
        config_file: of the plant.
        logs: the folder of their logs.
        environment: variables for them.
        host: where they serve their metrics.
        say: takes what people should know: a name, and a text.
        held: descriptors that the guards of all children keep open.
    """

    config_file: Path
    logs: Path
    environment: Mapping[str, str]
    host: str
    say: Callable[[str, str], None]
    held: Sequence[int] = ()

    def child(self, program: Program, may_start: Callable[[], bool]) -> Child:
        """Return the child of a program."""
        log = self.logs / f"{program.name.replace(' ', '-')}.log"
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        command = [sys.executable, "-m", "patchline", *program.arguments, "--config", str(self.config_file)]

        def launch() -> Running:
            with log.open("ab") as output:
                return server.start_guarded(command, output, output, self.environment, held=self.held)

        url = f"http://{self.host}:{program.port}/readyz"
        return Child(
            name=program.name,
            launch=launch,
            is_ready=lambda process: _answers_itself(process, url),
            request_stop=_request_stop,
            say=self.say,
            may_start=may_start,
            last_words=lambda: _last_line(log),
        )

    def server(self, private: Server) -> Child:
        """Return the child of a private server."""
        private.held = self.held

        def launch() -> Running:
            private.start()
            assert private.guard is not None
            return private.guard

        return Child(
            name=private.name,
            launch=launch,
            is_ready=lambda _: private.is_ready(),
            request_stop=_request_stop,
            say=self.say,
            last_words=lambda: _last_line(private.home / "console.log"),
        )


def _answers_itself(process: Running, url: str) -> bool:
    """Return True if a probe says yes, and is not one of another process that has the port."""
    assert isinstance(process, subprocess.Popen)
    return server.answering(url, health.PROCESS_HEADER) in server.guarded(process)


def _request_stop(process: Running) -> None:
    assert isinstance(process, subprocess.Popen)
    server.request_stop(process)


def _last_line(log: Path) -> str:
    """The last line of a log that says something, for people. On a full disk it is an old one."""
    try:
        rows = [row.strip() for row in log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]]
    except OSError:
        rows = []
    said = [row for row in rows if row]
    words = f"{said[-1][:_LAST_LINE]} ({log})" if said else f"see {log}"
    return f"{room.FULL}; its log ends: {words}" if room.is_full(log.parent) else words
