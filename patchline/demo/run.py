"""Runs a complete line on pictures of solar cells: fit, publish, inspect, act, report.

Like in a plant, each part is a separate process: two cameras, RabbitMQ, Redis, Prometheus, two supervised workers, a
gate and an archive.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.parse
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from patchline import config
from patchline.banks import fit
from patchline.banks.choices import Choices
from patchline.broker.base import Broker, QueueConsumer
from patchline.demo import archived, cells, folder, report, watched
from patchline.demo.processes import Processes, wait_until_ready
from patchline.demo.watched import Watch
from patchline.protocol import messages, topology
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Verdict
from patchline.runtime import connections, terminal
from patchline.services import private_servers, server

LINE = "demo"
_RATE = 100  # images per second and camera; more than two cores can inspect, so that a queue builds up
_DEADLINE_MS = 240_000
_GATE = "demo"
_STALL_S = 30.0  # the line has stopped if no verdict arrives for this long


@dataclass
class Received:
    """The first verdict of each job, and the number of repeated verdicts."""

    verdicts: dict[str, Verdict] = field(default_factory=dict)
    duplicates: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    @property
    def fps(self) -> float:
        """Verdicts per second, from the first to the last."""
        return (len(self.verdicts) - 1) / max(self.last_at - self.first_at, 1e-9)


def run(settings: config.Config, out: Path, watch: Watch | None = None) -> None:
    """Run the demo. Write its report, its summary and its memory banks to `out`.

    Args:
        settings: the configuration.
        out: a folder for everything that is written.
        watch: shows the line in the browser, and stays until Ctrl-C; None: there is no console.

    Raises:
        SetupError: the images are not installed, `out` holds other files, or a part has no verdict or no action.
        ServiceError: a server is not installed or does not start.
    """
    cells.data_folder()
    with folder.claimed(out):
        _run(settings, out, watch)


def _run(settings: config.Config, out: Path, watch: Watch | None) -> None:
    gate = settings.gate.model_copy(update={"max_wait_ms": _DEADLINE_MS})
    settings = archived.settings_for(settings.model_copy(update={"gate": gate}))
    settings = folder.settings_for(settings, out, list(cells.CATEGORIES))
    for name in cells.CATEGORIES:
        cells.link_images(out / "images" / name, name)
        choices = Choices(accepted=cells.ACCEPTED[name], out=out)
        fit.fit(settings, name, out / "images" / name / "train" / "good", seed=0, choices=choices)
    ports = server.consecutive_free_ports(2)
    print(f"servers: {private_servers.describe(with_prometheus=True)}", file=sys.stderr)
    with private_servers.running({"patchline": ports}) as servers, ExitStack() as kept:
        settings = config.with_urls(settings, servers.amqp_url, servers.redis_url)
        summary, verdicts = _run_line(settings, out, ports[0], servers, kept, watch)
        _report(settings, out, summary, verdicts)
        if watch is not None:
            watched.stay()


def _report(settings: config.Config, out: Path, summary: report.Summary, verdicts: list[Verdict]) -> None:
    summary["categories"] = report.by_category(settings, verdicts, out / "images")
    paths = report.write(settings, verdicts, summary, out)
    report.show(summary, paths)
    if summary["lost"] or summary["without_action"]:
        raise SetupError(f"{summary['lost']} parts have no verdict, {summary['without_action']} no action; see {out}")
    if summary["not_archived"]:
        raise SetupError(f"the archive lacks {summary['not_archived']} verdicts; see {out}")
    archived.show(settings, verdicts, out)


def _run_line(
    settings: config.Config,
    out: Path,
    metrics_port: int,
    servers: private_servers.Servers,
    kept: ExitStack,
    watch: Watch | None,
) -> tuple[report.Summary, list[Verdict]]:
    """Run the line until each image has a verdict. Archive and console go on until `kept` ends."""
    environment = {"PATCHLINE_AMQP_URL": servers.amqp_url, "PATCHLINE_REDIS_URL": servers.redis_url}
    processes = Processes(out, environment | archived.ENVIRONMENT)
    with ExitStack() as stack, connections.connect(settings, "demo") as broker:
        broker.declare(connections.plant(settings))
        broker.declare(topology.gate(LINE, [_GATE]))

        def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(processes.running(name, "patchline", *arguments))

        start("gate", "gate", "--line", LINE, "--instance", _GATE, "--dry-run")
        start("workers", "worker", "--devices", "cpu:0,cpu:1", "--metrics-port", str(metrics_port))
        (archive_port,) = server.free_ports(1)
        archive = ("archive", "--metrics-port", str(archive_port))
        kept.enter_context(processes.running("archive", "patchline", *archive))
        verdicts = archived.consume_verdicts(broker)
        wait_until_ready([metrics_port, metrics_port + 1, archive_port], "workers and archive")
        if watch is not None:
            kept.enter_context(watch.console(settings, processes))
        cameras = [
            start(f"published-{name}", *_camera(name, out / "images" / name / "test")) for name in cells.CATEGORIES
        ]
        images = sum(1 for _ in out.glob("images/*/test/*/*"))
        received = _collect(verdicts, images, cameras)
        not_archived = archived.wait(settings, received.verdicts.values())
        fps_peak = _query(servers.prometheus_url, "max_over_time(sum(patchline_fps)[10m:1s])")
        dead_letters = _drain(broker, topology.DEAD)
        time.sleep(1.0)  # the gate writes its last action
    accepted = {record["job_id"] for path in out.glob("published-*.jsonl") for record in _read_records(path)}
    acted = [record["job_id"] for record in _read_records(out / "gate.jsonl")]
    summary: report.Summary = {
        "images": len(accepted),
        "fps": round(received.fps, 1),
        "fps_peak_prometheus": round(fps_peak, 1),
        "lost": len(accepted - received.verdicts.keys()) + images - len(accepted),
        "duplicates": received.duplicates,
        "dead_letters": dead_letters,
        "without_action": len(accepted - set(acted)),
        "acted_twice": len(acted) - len(set(acted)),
        "not_archived": not_archived,
    }
    return summary, list(received.verdicts.values())


def _camera(category: str, folder: Path) -> list[str]:
    options = ["--rate", str(_RATE), "--deadline-ms", str(_DEADLINE_MS)]
    return ["publish", "--line", LINE, "--category", category, *options, str(folder)]


def _collect(consumer: QueueConsumer, images: int, cameras: list[subprocess.Popen[bytes]]) -> Received:
    """Read verdicts until each image has one, or until the cameras have ended and no more verdicts arrive."""
    received = Received(first_at=time.monotonic(), last_at=time.monotonic())
    with terminal.progress() as bars:
        bar = bars.add_task("verdicts", total=images)
        while len(received.verdicts) < images:
            delivery = consumer.take(0.5)
            if delivery is None:
                stalled = time.monotonic() - received.last_at > _STALL_S
                if stalled and all(camera.poll() is not None for camera in cameras):
                    break
                continue
            _record(received, messages.parse_verdict(delivery.message))
            delivery.ack()
            bars.update(bar, completed=len(received.verdicts))
    while (late := consumer.take(1.0)) is not None:
        _record(received, messages.parse_verdict(late.message))
        late.ack()
    for camera in cameras:
        camera.wait(_STALL_S)
    return received


def _record(received: Received, verdict: Verdict) -> None:
    if verdict.job_id in received.verdicts:
        received.duplicates += 1
        return
    received.last_at = time.monotonic()
    if not received.verdicts:
        received.first_at = received.last_at
    received.verdicts[verdict.job_id] = verdict


def _drain(broker: Broker, queue: str) -> int:
    """Remove all messages from a queue and return their number."""
    consumer, count = broker.consume(queue, prefetch=100), 0
    while (delivery := consumer.take(0.5)) is not None:
        delivery.ack()
        count += 1
    return count


def _query(prometheus_url: str | None, query: str) -> float:
    """Return the value of an instant query. Raises SetupError if Prometheus has no data."""
    url = f"{prometheus_url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with server.fetch(url, timeout_s=30.0) as reply:
        result = json.load(reply)["data"]["result"]
    if not result:
        raise SetupError(f"Prometheus has no data for {query}")
    return float(result[0]["value"][1])


def _read_records(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
