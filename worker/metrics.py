"""Every metric of a worker and of its supervisor, and the port that shows them.

Each worker process has a registry and a port of its own. No label takes values without bound: lines beyond the first
64 are counted as `other`, and a category that is not served as `unknown`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from patchline.devices import npu
from patchline.devices.backbone import Device
from patchline.protocol import messages
from patchline.runtime import metrics
from patchline.runtime.health import Health, serve
from patchline.runtime.metrics import Counter, Gauge, Histogram
from patchline.worker.supervisor import Cause

_WINDOW_S = 10.0
_MOST_LINES = 64
_CHIP_S = 15.0
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 4.0)

# By name behind `patchline_`: what it says, and its labels.
_COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "images": ("Verdicts confirmed by the broker.", ("line", "category", "decision")),
    "errors": ("Jobs without an ordinary verdict.", ("reason",)),
    "jobs_set_apart": ("Jobs that failed or came again, to be judged alone.", ()),
    "redis_failures": ("Times Redis did not answer.", ()),
    "device_failures": ("Times the device failed.", ()),
}
_GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "in_flight": ("Jobs in the hands of this worker.", ()),
    "behind_seconds": ("Age of the last job taken, from its capture on.", ()),
    "last_verdict_timestamp_seconds": ("When the last verdict was confirmed.", ()),
    "calibrated_score_ratio": (
        "Median of the good images at fit time; 1 is the threshold.",
        ("category",),
    ),
    "fps": (f"Verdicts a second over the last {_WINDOW_S:g} s.", ("device",)),
}
_HISTOGRAMS: dict[str, tuple[str, tuple[str, ...], tuple[float, ...]]] = {
    "stage_seconds": ("Time in a stage of a job.", ("stage",), _SECONDS),
    "confirm_seconds": ("Until RabbitMQ has confirmed a verdict.", (), _SECONDS),
    "capture_to_verdict_seconds": ("From the capture to the confirmed verdict.", (), (*_SECONDS, 30.0, 120.0)),
    "score_ratio": ("Score of an image, where 1 is the fail threshold.", ("line", "category"), _RATIOS),
}
_OF_CHIP = {
    "temperature_celsius": "Of the chip.",
    "memory_used_bytes": "Of the chip.",
    "memory_total_bytes": "Of the chip.",
    "healthy": "1 where nothing is reported of the chip.",
}


class Metrics:
    """Counts what lanes do."""

    def __init__(self, device: str, categories: list[str], clock: Callable[[], float] = time.monotonic) -> None:
        own = self.registry = metrics.Registry()
        self._clock = clock
        self._categories = frozenset(categories)
        self._lines: set[str] = set()
        self._finished: deque[float] = deque()
        self._lock = threading.Lock()
        self._count = {
            name: Counter(f"patchline_{name}", text, labels, registry=own) for name, (text, labels) in _COUNTERS.items()
        }
        self._gauge = {
            name: Gauge(f"patchline_{name}", text, labels, registry=own) for name, (text, labels) in _GAUGES.items()
        }
        self._observe = {
            name: Histogram(f"patchline_{name}", text, labels, buckets=buckets, registry=own)
            for name, (text, labels, buckets) in _HISTOGRAMS.items()
        }
        self._chip = {name: Gauge(f"patchline_device_{name}", text, registry=None) for name, text in _OF_CHIP.items()}
        self._gauge["fps"].labels(device).set_function(self.fps)

    def serve(self, host: str, port: int, health: Health) -> int:
        """Show the metrics, and beside them the health; returns the port, a free one where `port` is 0."""
        return serve(host, port, metrics.application(self.registry), health)

    def calibrated(self, category: str, median: float, threshold: float) -> None:
        """What a good part of a category is expected to score."""
        self._gauge["calibrated_score_ratio"].labels(category).set(median / threshold)

    def fps(self) -> float:
        """Confirmed verdicts a second over the window."""
        with self._lock:
            self._forget_old()
            return len(self._finished) / _WINDOW_S

    def stage_took(self, stage: str, seconds: float) -> None:
        """A stage of a job has ended."""
        self._observe["stage_seconds"].labels(stage).observe(seconds)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """A job is in our hands."""
        with self._gauge["in_flight"].track_inprogress():
            yield

    def confirmed(self, seconds: float) -> None:
        """RabbitMQ has confirmed a message."""
        self._observe["confirm_seconds"].observe(seconds)

    def received(self, captured_at_ms: int, now_ms: int) -> None:
        """A job was taken from the queue."""
        self._gauge["behind_seconds"].set(max(0, now_ms - captured_at_ms) / 1000)

    def answered(self, verdict: messages.Verdict, confirmed_at_ms: int) -> None:
        """A verdict was confirmed."""
        line = self._known_line(verdict.line)
        category = verdict.category if verdict.category in self._categories else messages.UNKNOWN
        for decision in messages.Decision:
            # Every series begins at 0: an increase from nothing to the first error would not be seen as one.
            self._count["images"].labels(line, category, decision).inc(decision is verdict.decision)
        if verdict.score is not None and verdict.thresholds is not None:
            self._observe["score_ratio"].labels(line, category).observe(verdict.score / verdict.thresholds.fail)
        if verdict.reason is not None:
            self._count["errors"].labels(verdict.reason).inc()
        if verdict.captured_at is not None:
            waited_ms = max(0, confirmed_at_ms - verdict.captured_at)
            self._observe["capture_to_verdict_seconds"].observe(waited_ms / 1000)
        self._gauge["last_verdict_timestamp_seconds"].set(confirmed_at_ms / 1000)
        with self._lock:
            self._finished.append(self._clock())
            self._forget_old()

    def set_apart(self) -> None:
        """A job went to the suspects."""
        self._count["jobs_set_apart"].inc()

    def watch_chip(self, number: int, stop: threading.Event) -> None:
        """Show the state of an Ascend chip until `stop` is set; without an answer of npu-smi the metrics are absent."""
        registered = False
        while not stop.is_set():
            try:
                (chip,) = [each for each in npu.read() if each.device == number]
            except (npu.NpuError, ValueError):
                chip = None
            if chip is not None:
                for name, gauge in self._chip.items():
                    gauge.set(getattr(chip, name))
            if registered != (chip is not None):
                registered = not registered
                for gauge in self._chip.values():
                    (self.registry.register if registered else self.registry.unregister)(gauge)
            stop.wait(_CHIP_S)

    def device_failed(self) -> None:
        """The device gave no complete answer to an image."""
        self._count["device_failures"].inc()

    def redis_failed(self) -> None:
        """Redis did not answer."""
        self._count["redis_failures"].inc()

    def _known_line(self, line: str) -> str:
        with self._lock:
            if line in self._lines or len(self._lines) < _MOST_LINES:
                self._lines.add(line)
                return line
        return "other"

    def _forget_old(self) -> None:
        while self._finished and self._finished[0] < self._clock() - _WINDOW_S:
            self._finished.popleft()


class SupervisorMetrics:
    """What a supervisor knows of its workers."""

    def __init__(self, devices: list[str]) -> None:
        self.registry = metrics.Registry()
        self._restarts = Counter(
            "patchline_worker_restarts",
            "Times a worker ended, or was stuck and replaced.",
            ("device", "cause"),
            registry=self.registry,
        )
        for device in devices:
            for cause in Cause:
                self._restarts.labels(device, cause)

    def restarted(self, device: Device, cause: Cause) -> None:
        """A worker had to be started again."""
        self._restarts.labels(str(device), cause).inc()

    def serve(self, host: str, port: int) -> None:
        """Show the metrics at `http://host:port/metrics`."""
        metrics.serve(self.registry, host, port)
