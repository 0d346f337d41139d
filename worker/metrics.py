"""Every metric of a worker, and the port that shows them. The only prometheus_client user.

Each worker process has a registry and a port of its own. No label takes values without bound: lines beyond the first
64 are counted as `other`, and a category that is not served as `unknown`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import prometheus_client
from prometheus_client import Counter, Gauge, Histogram

from inspection import message
from inspection.backbone import Device
from process import npu
from worker.health import Health, serve
from worker.supervisor import Cause

_WINDOW_S = 10.0
_MOST_LINES = 64
_CHIP_S = 15.0
_SCORE_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 4.0)
_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """Counts what lanes do."""

    def __init__(self, device: str, categories: list[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self._clock = clock
        self._categories = frozenset(categories)
        self._lines: set[str] = set()
        self._finished: deque[float] = deque()
        self._lock = threading.Lock()
        self._images = Counter(
            "patchline_images",
            "Verdicts confirmed by the broker.",
            ("line", "category", "decision"),
            registry=self.registry,
        )
        self._errors = Counter(
            "patchline_errors", "Jobs without an ordinary verdict.", ("reason",), registry=self.registry
        )
        self._stages = Histogram(
            "patchline_stage_seconds",
            "Time in a stage of a job.",
            ("stage",),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._latency = Histogram(
            "patchline_capture_to_verdict_seconds",
            "From the capture of an image to its confirmed verdict.",
            buckets=(*_BUCKETS_S, 30.0, 120.0),
            registry=self.registry,
        )
        self._confirms = Histogram(
            "patchline_confirm_seconds",
            "Until RabbitMQ has confirmed a verdict.",
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._scores = Histogram(
            "patchline_score_ratio",
            "Score of an image, where 1 is the fail threshold.",
            ("line", "category"),
            buckets=_SCORE_RATIOS,
            registry=self.registry,
        )
        self._expected = Gauge(
            "patchline_calibrated_score_ratio",
            "Median score of the good images at fit time, where 1 is the fail threshold.",
            ("category",),
            registry=self.registry,
        )
        self._in_flight = Gauge("patchline_in_flight", "Jobs in the hands of this worker.", registry=self.registry)
        self._last_verdict = Gauge(
            "patchline_last_verdict_timestamp_seconds", "When the last verdict was confirmed.", registry=self.registry
        )
        self._set_apart = Counter(
            "patchline_jobs_set_apart", "Jobs that failed or came again, to be judged alone.", registry=self.registry
        )
        self._behind = Gauge(
            "patchline_behind_seconds", "Age of the last job taken, from its capture on.", registry=self.registry
        )
        self._redis = Counter("patchline_redis_failures", "Times Redis did not answer.", registry=self.registry)
        self._chip = {
            "temperature_celsius": Gauge("patchline_device_temperature_celsius", "Of the chip.", registry=None),
            "memory_used_bytes": Gauge("patchline_device_memory_used_bytes", "Of the chip.", registry=None),
            "memory_total_bytes": Gauge("patchline_device_memory_total_bytes", "Of the chip.", registry=None),
            "healthy": Gauge("patchline_device_healthy", "1 where nothing is reported of the chip.", registry=None),
        }
        self._device = Counter("patchline_device_failures", "Times the device failed.", registry=self.registry)
        fps = Gauge(
            "patchline_fps", f"Verdicts a second over the last {_WINDOW_S:g} s.", ("device",), registry=self.registry
        )
        fps.labels(device).set_function(self.fps)

    def serve(self, host: str, port: int, health: Health) -> int:
        """Show the metrics, and beside them the health; returns the port, a free one where `port` is 0."""
        return serve(host, port, prometheus_client.make_wsgi_app(self.registry), health)

    def calibrated(self, category: str, median: float, threshold: float) -> None:
        """What a good part of a category is expected to score."""
        self._expected.labels(category).set(median / threshold)

    def fps(self) -> float:
        """Confirmed verdicts a second over the window."""
        with self._lock:
            self._forget_old()
            return len(self._finished) / _WINDOW_S

    def stage_took(self, stage: str, seconds: float) -> None:
        """A stage of a job has ended."""
        self._stages.labels(stage).observe(seconds)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """A job is in our hands."""
        with self._in_flight.track_inprogress():
            yield

    def answered(self, verdict: message.Verdict, confirmed_at_ms: int) -> None:
        """A verdict was confirmed."""
        category = verdict.category if verdict.category in self._categories else message.UNKNOWN
        self._images.labels(self._known_line(verdict.line), category, verdict.decision).inc()
        if verdict.score is not None and verdict.thresholds is not None:
            ratio = verdict.score / verdict.thresholds.fail
            self._scores.labels(self._known_line(verdict.line), category).observe(ratio)
        if verdict.reason is not None:
            self._errors.labels(verdict.reason).inc()
        if verdict.captured_at is not None:
            self._latency.observe(max(0, confirmed_at_ms - verdict.captured_at) / 1000)
        self._last_verdict.set(confirmed_at_ms / 1000)
        with self._lock:
            self._finished.append(self._clock())
            self._forget_old()

    def confirmed(self, seconds: float) -> None:
        """RabbitMQ has confirmed a message."""
        self._confirms.observe(seconds)

    def received(self, captured_at_ms: int, now_ms: int) -> None:
        """A job was taken from the queue."""
        self._behind.set(max(0, now_ms - captured_at_ms) / 1000)

    def set_apart(self) -> None:
        """A job went to the suspects."""
        self._set_apart.inc()

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
        self._device.inc()

    def redis_failed(self) -> None:
        """Redis did not answer."""
        self._redis.inc()

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
        self.registry = prometheus_client.CollectorRegistry()
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
        prometheus_client.start_http_server(port, addr=host, registry=self.registry)
