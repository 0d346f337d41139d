"""A private PostgreSQL on a free loopback port, for tests and benchmarks."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from patchline.services.private_servers import temporary_folder
from patchline.services.server import HOST, Server, ServiceError, free_ports

_INSTALLED = Path("/usr/lib/postgresql")  # of Debian: a folder for each version
_SYSTEM_USER = "postgres"  # PostgreSQL refuses to run as root
_USER, _DATABASE = "patchline", "patchline"


@dataclass(frozen=True)
class PostgreSQL:
    """A server and the url of its database. Its user may do anything, and needs no password on loopback."""

    server: Server
    url: str

    def crash(self) -> None:
        """End the server at once, without its clients' consent. Its next start recovers the database."""
        postmaster = int((self.server.home / "data" / "postmaster.pid").read_text(encoding="ascii").split()[0])
        os.kill(postmaster, signal.SIGQUIT)
        self.server.stop()


def missing_packages() -> list[str]:
    """Return the Debian packages that are not installed."""
    return [] if _programs() is not None else ["postgresql"]


@contextmanager
def running() -> Iterator[PostgreSQL]:
    """Run PostgreSQL, with its data in a temporary folder, until the block ends.

    Raises:
        ServiceError: it is not installed or does not start.
    """
    programs = _programs()
    if programs is None:
        raise ServiceError("postgresql is not installed; as root: apt-get install postgresql")
    with temporary_folder() as home:
        (port,) = free_ports(1)
        as_user = _as_user(home)
        data = home / "data"
        initialise = [
            str(programs / "initdb"),
            "--pgdata",
            str(data),
            "--username",
            _USER,
            "--auth",
            "trust",
            "-E",
            "UTF8",
        ]
        _run([*as_user, *initialise, "--locale", "C", "--no-instructions"])
        options = [f"-c{option}" for option in (f"listen_addresses={HOST}", f"unix_socket_directories={home}")]
        command = [*as_user, str(programs / "postgres"), "-D", str(data), "-p", str(port), *options]
        client = [str(programs / "psql"), "-h", HOST, "-p", str(port), "-U", _USER, "-d"]
        ready = [*client, "postgres", "-c", "SELECT 1"]
        server = Server("postgresql", command, home, lambda: subprocess.run(ready, capture_output=True).returncode == 0)
        try:
            server.start()
            server.wait()
            _run([*client, "postgres", "-c", f"CREATE DATABASE {_DATABASE}"])
            yield PostgreSQL(server, f"postgresql://{_USER}@{HOST}:{port}/{_DATABASE}")
        finally:
            server.stop()


def _programs() -> Path | None:
    """Return the folder of the programs of the newest version."""
    folders = [path.parent for path in _INSTALLED.glob("*/bin/postgres")]
    return max(folders, key=lambda folder: int(folder.parent.name), default=None)


def _as_user(home: Path) -> Sequence[str]:
    """Return what runs a command as a user who may run PostgreSQL, and give that user the folder."""
    if os.geteuid() != 0:
        return []
    shutil.chown(home, _SYSTEM_USER, _SYSTEM_USER)
    return ["setpriv", f"--reuid={_SYSTEM_USER}", f"--regid={_SYSTEM_USER}", "--init-groups"]


def _run(command: Sequence[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, cwd="/")
    if result.returncode != 0:
        raise ServiceError(f"{command[-1]} failed:\n{result.stdout}{result.stderr}")
