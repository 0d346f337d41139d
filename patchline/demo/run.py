"""The whole line on real solar cells: fit, publish, judge, act, report.

Every process is one of its own, as in a plant: two cameras, RabbitMQ, Redis, Prometheus, a supervised worker on each
half of the machine, a gate. What this file does itself is what a plant's archive does: read the verdicts.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from patchline import config
from patchline.banks import fit
from patchline.broker.base import Broker
from patchline.demo import cells, report
from patchline.protocol import messages, topology
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Verdict
from patchline.runtime import connections, terminal
from patchline.services import private_servers, server

LINE = "demo"
_RATE = 100  # images a second from each of two cameras: more than two cores judge, so that a queue builds up
_DEADLINE_MS = 240_000
_START_S = 60.0
_SILENCE_S = 30.0  # the line has stopped when no verdict comes for so long


@dataclass
class Seen:
    """What came out of the line: the first verdict of each job, and how many more there were."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)
    duplicates: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    @property
    def fps(self) -> float:
        """Verdicts a second, from the first to the last."""
        return (len(self.verdicts) - 1) / max(self.last_at - self.first_at, 1e-9)


def run(settings: config.Config, out: Path) -> None:
    """Run the demo and leave its report, its summary and its memory banks in `out`.

    Raises:
        SetupError: the images are not installed, or a part has no verdict.
        ServiceError: a server is missing or does not start.
    """
    shutil.rmtree(out, ignore_errors=True)
    cells.lay_out(out / "images")
    settings = _with_banks_in(settings, out)
    for name in cells.CATEGORIES:
        fit.fit(settings, name, out / "images" / name / "train" / "good", seed=0)
    ports = server.consecutive_free_ports(2)
    print("starting RabbitMQ, Redis and Prometheus of our own on loopback", file=sys.stderr)
    with private_servers.running({"patchline": ports}) as servers:
        settings = config.with_urls(settings, servers.amqp_url, servers.redis_url)
        summary, verdicts = _drive(settings, out, ports[0], servers)
    summary["categories"] = report.by_category(settings, verdicts, out / "images")
    pages = report.write(settings, verdicts, summary, out)
    report.show(summary, pages)
    if summary["lost"] or summary["without_action"]:
        raise SetupError(f"{summary['lost']} parts have no verdict, {summary['without_action']} no action; see {out}")


def _with_banks_in(settings: config.Config, out: Path) -> config.Config:
    paths = settings.paths.model_copy(
        update={
            "memory_banks": (out / "memory-banks").resolve(),
            "spool": (out / "spool").resolve(),
            "gate": (out / "gate-memory").resolve(),
        }
    )
    kept = {name: settings.category(name) for name in cells.CATEGORIES}
    settings = settings.model_copy(update={"paths": paths, "categories": kept})
    config.save(settings, out / "config.yaml")
    return settings


def _drive(
    settings: config.Config, out: Path, metrics_port: int, servers: private_servers.Servers
) -> tuple[report.Summary, list[Verdict]]:
    environment = {"PATCHLINE_AMQP_URL": servers.amqp_url, "PATCHLINE_REDIS_URL": servers.redis_url}
    with ExitStack() as stack, connections.connect(settings, "demo") as broker:
        broker.declare(connections.plant(settings))
        broker.declare(topology.gate(LINE))

        def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(_process(name, out, environment, *arguments))

        start("gate", "gate", "--line", LINE)
        start("workers", "worker", "--devices", "cpu:0,cpu:1", "--metrics-port", str(metrics_port))
        _await_metrics([metrics_port, metrics_port + 1])
        cameras = [
            start(f"published-{name}", *_camera(name, out / "images" / name / "test")) for name in cells.CATEGORIES
        ]
        images = sum(1 for _ in out.glob("images/*/test/*/*"))
        seen = _collect(broker, images, cameras)
        fps_peak = _ask(servers.prometheus_url, "max_over_time(sum(patchline_fps)[10m:1s])")
        dead_letters = _drained(broker, topology.DEAD)
        time.sleep(1.0)  # the gate's last line
    accepted = {record["job_id"] for path in out.glob("published-*.jsonl") for record in _records(path)}
    acted = [record["job_id"] for record in _records(out / "gate.jsonl")]
    summary: report.Summary = {
        "images": len(accepted),
        "fps": round(seen.fps, 1),
        "fps_peak_prometheus": round(fps_peak, 1),
        "lost": len(accepted - seen.verdicts.keys()) + images - len(accepted),
        "duplicates": seen.duplicates,
        "dead_letters": dead_letters,
        "without_action": len(accepted - set(acted)),
        "acted_twice": len(acted) - len(set(acted)),
    }
    return summary, list(seen.verdicts.values())


def _camera(category: str, folder: Path) -> list[str]:
    options = ["--rate", str(_RATE), "--deadline-ms", str(_DEADLINE_MS)]
    return ["publish", "--line", LINE, "--category", category, *options, str(folder)]


@contextmanager
def _process(name: str, out: Path, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A patchline process with its output in `<name>.jsonl` and its log in `<name>.log`."""
    command = [sys.executable, "-m", "patchline", *arguments, "--config", str(out / "config.yaml")]
    with (out / f"{name}.jsonl").open("wb") as output, (out / f"{name}.log").open("wb") as errors:
        guard = server.start_guarded(command, output, errors, environment)
        try:
            yield guard
        finally:
            server.stop_guarded(guard)


def _await_metrics(ports: list[int]) -> None:
    deadline = time.monotonic() + _START_S
    while not all(server.responds(f"http://127.0.0.1:{port}/readyz") for port in ports):
        if time.monotonic() > deadline:
            raise SetupError(f"the workers did not start within {_START_S:g} s; see workers.log")
        time.sleep(0.1)


def _collect(broker: Broker, images: int, cameras: list[subprocess.Popen[bytes]]) -> Seen:
    """Read verdicts until there is one for each image, or the line is silent and the cameras have ended."""
    verdicts = broker.consume(topology.VERDICTS, prefetch=200)
    seen = Seen(first_at=time.monotonic(), last_at=time.monotonic())
    with terminal.progress() as bars:
        bar = bars.add_task("verdicts", total=images)
        while len(seen.verdicts) < images:
            delivery = verdicts.take(0.5)
            if delivery is None:
                silent = time.monotonic() - seen.last_at > _SILENCE_S
                if silent and all(camera.poll() is not None for camera in cameras):
                    break
                continue
            _note(seen, messages.parse_verdict(delivery.message))
            delivery.ack()
            bars.update(bar, completed=len(seen.verdicts))
    while (late := verdicts.take(1.0)) is not None:
        _note(seen, messages.parse_verdict(late.message))
        late.ack()
    for camera in cameras:
        camera.wait(_SILENCE_S)
    return seen


def _note(seen: Seen, verdict: Verdict) -> None:
    if verdict.job_id in seen.verdicts:
        seen.duplicates += 1
        return
    seen.last_at = time.monotonic()
    if not seen.verdicts:
        seen.first_at = seen.last_at
    seen.verdicts[verdict.job_id] = verdict


def _drained(broker: Broker, queue: str) -> int:
    """How many messages a queue holds; they are taken out."""
    messages, count = broker.consume(queue, prefetch=100), 0
    while (delivery := messages.take(0.5)) is not None:
        delivery.ack()
        count += 1
    return count


def _ask(prometheus_url: str | None, query: str) -> float:
    """The value of an instant query. Raises SetupError when Prometheus has none."""
    with urllib.request.urlopen(f"{prometheus_url}/api/v1/query?{urllib.parse.urlencode({'query': query})}") as reply:
        result = json.load(reply)["data"]["result"]
    if not result:
        raise SetupError(f"Prometheus has no data for {query}")
    return float(result[0]["value"][1])


def _records(path: Path) -> list[dict[str, str]]:
    return [json.loads(each) for each in path.read_text(encoding="utf-8").splitlines()]
