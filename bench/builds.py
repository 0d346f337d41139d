"""Builds of Patchline that are compared: this one, and that of a revision, with an environment of its own.

Everything goes over what all builds share: the commands of their Python, the environment variables of the urls, the
exchange of the jobs, the queue of the verdicts and the metrics of a worker.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.line import Worker, only_child
from patchline.services import private_servers, server

_ROOT = Path(__file__).resolve().parents[1]
_PLANT = """
import sys
from pathlib import Path
from bench import plant
plant.build(Path(sys.argv[1]), Path("models"), tuple(sys.argv[2:]))
"""
_SAME_RECIPE = """
import sys
from pathlib import Path
import yaml
path, name, like = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
document = yaml.safe_load(path.read_text())
document["categories"][name] = document["categories"][like]
path.write_text(yaml.safe_dump(document))
"""
_WORKER = ("-m", "patchline", "worker")
_INSTALL_S = 1800


@dataclass(frozen=True)
class Build:
    """A build and a plant of its own.

    Attributes:
        name: for the table.
        root: its sources.
        python: the interpreter of its environment.
        plant: the folder of its models, banks and configuration.
    """

    name: str
    root: Path
    python: Path
    plant: Path

    def make_plant(self, categories: tuple[str, ...]) -> None:
        """Fit the categories of the benchmark, with the same pictures and seeds in all builds.

        Args:
            categories: of `bench.plant`. WIDE8 requires WIDE.

        Raises:
            ServiceError: the build cannot do it.
        """
        self.plant.mkdir(parents=True)
        run([str(self.python), "-c", _PLANT, str(self.plant), *categories], self.root, self._environment)

    def add_category(self, name: str, like: str) -> None:
        """Fit a further category with the recipe of another one and the same pictures, but with other rows in its bank.

        Raises:
            ServiceError: the build cannot do it.
        """
        path = str(self.plant / "config.yaml")
        run([str(self.python), "-c", _SAME_RECIPE, path, name, like], self.root, self._environment)
        command = [str(self.python), "-m", "patchline", "fit", "--category", name, "--seed", "1", "--config", path]
        run([*command, str(self.plant / "good")], self.root, self._environment)

    @contextmanager
    def workers(
        self,
        servers: private_servers.Servers,
        categories: Sequence[str],
        count: int = 1,
        script: Sequence[str] = _WORKER,
    ) -> Iterator[list[Worker]]:
        """Start workers of this build and yield them; stop them at the end of the block.

        Args:
            servers: theirs.
            categories: that each of them serves.
            count: of workers.
            script: what the build's Python runs.

        Raises:
            ServiceError: of the block, with the last line of the workers' log.
        """
        served = [word for name in categories for word in ("--category", name)]
        arguments = [str(self.python), *script, *served, "--config", str(self.plant / "config.yaml"), "--metrics-port"]
        urls = {"PATCHLINE_AMQP_URL": servers.amqp_url, "PATCHLINE_REDIS_URL": servers.redis_url}
        with ExitStack() as stack:
            log = stack.enter_context((self.plant / "worker.log").open("ab"))
            guards = []
            for port in server.free_ports(count):
                guard = server.start_guarded([*arguments, str(port)], log, log, self._environment | urls)
                stack.callback(server.stop_guarded, guard)
                guards.append((guard, port))
            try:
                yield [Worker(only_child(guard.pid), port) for guard, port in guards]
            except server.ServiceError as error:
                raise server.ServiceError(f"{self.name}: {error}: {_last_line(self.plant / 'worker.log')}") from error

    @property
    def _environment(self) -> dict[str, str]:
        return {"PYTHONPATH": str(self.root), "PYTHONSAFEPATH": "1"}  # not the working directory


def this_build(folder: Path) -> Build:
    """Return the build of the working tree, with a plant below a folder."""
    return Build("this build", _ROOT, Path(sys.executable), folder / "this")


@contextmanager
def build_of(revision: str, folder: Path) -> Iterator[Build]:
    """Check a revision out below a folder, and install what its lock file names. The checkout ends with the block.

    Raises:
        ServiceError: git knows no such revision, or its packages cannot be installed.
    """
    root, environment = folder / "sources", folder / "environment"
    run(["git", "worktree", "add", "--quiet", "--detach", str(root), revision], _ROOT)
    try:
        run([sys.executable, "-m", "venv", str(environment)], root)
        python = environment / "bin" / "python"
        for what in (["--require-hashes", "-r", "requirements.lock"], ["--no-deps", "--editable", "."]):
            run([str(python), "-m", "pip", "install", "--quiet", *what], root)
        yield Build(revision, root, python, folder / "other")
    finally:
        run(["git", "worktree", "remove", "--force", str(root)], _ROOT)


def run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    """Run a command in a folder, with more environment variables, and return its standard output.

    Raises:
        ServiceError: it fails, with the last line of its standard error.
    """
    variables = os.environ | (environment or {})
    done = subprocess.run(
        command, cwd=folder, env=variables, timeout=_INSTALL_S, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip() or "it says nothing").splitlines()[-1]
        raise server.ServiceError(f"{' '.join(command[:2])} ended with {done.returncode}: {last}")
    return done.stdout


def _last_line(log: Path) -> str:
    return (log.read_text(encoding="utf-8", errors="replace").strip() or "it says nothing").splitlines()[-1]
