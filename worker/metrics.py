"""The Prometheus metrics of a worker and of its supervisor.

Each worker process has its own registry and port. The values of labels are bounded: lines beyond the first 64 are
counted as `other`, and categories that are not served as `unknown`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from patchline.banks.version_log import SHORT
from patchline.devices import npu
from patchline.devices.backbone import Device
from patchline.inspection.memory_bank import MemoryBank
from patchline.protocol import messages
from patchline.protocol.errors import Reason
from patchline.runtime import metrics
from patchline.runtime.health import Health, serve
from patchline.runtime.metrics import Counter, Gauge, Histogram
from patchline.worker import drift
from patchline.worker.backpressure import Backpressure
from patchline.worker.supervisor import Cause

_FPS_WINDOW_S = 10.0
_MAX_LINES = 64
_CHIP_INTERVAL_S = 15.0
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0, 4.0)

# Name without the prefix `patchline_`: help text, labels (and buckets).
_COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "images": ("Verdicts confirmed by RabbitMQ.", ("line", "category", "decision")),
    "errors": ("Jobs that failed or expired.", ("reason",)),
    "jobs_set_apart": ("Failed or redelivered jobs sent to the queue of the suspects.", ()),
    "dead_letters_incomplete": ("Dead letters sent without their image, or lost.", ()),
    "redis_failures": ("Failed requests to Redis.", ()),
    "device_failures": ("Failures of the device.", ()),
    "bank_switches": ("Memory banks that were switched to while the worker ran.", ("category",)),
}
_GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "behind_seconds": ("Age of the last job taken, since its capture.", ()),
    "queue_max_length": ("Configured length at which RabbitMQ refuses further messages of a queue.", ("queue",)),
    "calibrated_score_ratio": ("Median score of good images at fit time; 1 is the fail threshold.", ("category",)),
    "lanes_refused": ("Lanes that wait because RabbitMQ refuses their messages: a queue is full.", ()),
    "device_lost": ("1 if the device holds a process that cannot be ended: no other is started on it.", ()),
    "category_ready": ("1 if the category is served, 0 if its memory bank or model cannot be used.", ("category",)),
    "bank_info": ("1 for the version of the memory bank that is served.", ("category", "version")),
    "bank_not_activated": (
        "1 if the active version of the bank store cannot be served: the one before is, else 0.",
        ("category",),
    ),
    "drift_share": (
        "Share of the last parts that score above the median held-out good image; 0.5 if nothing has changed.",
        ("line", "category"),
    ),
    "drift_lower_limit": ("Smallest patchline_drift_share without drift.", ("line", "category")),
    "drift_upper_limit": ("Largest patchline_drift_share without drift.", ("line", "category")),
    "fps": (f"Confirmed verdicts per second over the last {_FPS_WINDOW_S:g} s.", ("device",)),
}
_HISTOGRAMS: dict[str, tuple[str, tuple[str, ...], tuple[float, ...]]] = {
    "stage_seconds": ("Duration of an inspection stage.", ("stage",), _SECONDS),
    "confirm_seconds": ("Time until RabbitMQ confirms a message.", (), _SECONDS),
    "capture_to_verdict_seconds": ("Time from capture to confirmed verdict.", (), (*_SECONDS, 30.0, 120.0)),
    "score_ratio": ("Score of an image; 1 is the fail threshold.", ("line", "category"), _RATIOS),
}
_DRIFT_GAUGES = ("drift_share", "drift_lower_limit", "drift_upper_limit")
_CHIP_GAUGES = {
    "temperature_celsius": "Temperature of the chip.",
    "memory_used_bytes": "Used memory of the chip.",
    "healthy": "1 if the chip reports no fault, else 0.",
}


class Metrics:
    """The metrics of one worker process. All methods are thread-safe."""

    def __init__(self, device: str, categories: list[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = registry = metrics.Registry()
        self._clock = clock
        self._categories = frozenset(categories)
        self._lines: set[str] = set()
        self._references: dict[str, tuple[str | None, drift.Reference]] = {}  # with the version of the bank
        self._banks: dict[str, str] = {}
        self._drift_shown: set[tuple[str, str]] = set()
        self._charts = drift.Charts()
        self._confirmed_at: deque[float] = deque()
        self._lock = threading.Lock()
        self._counters = {
            name: Counter(f"patchline_{name}", text, labels, registry=registry)
            for name, (text, labels) in _COUNTERS.items()
        }
        self._gauges = {
            name: Gauge(f"patchline_{name}", text, labels, registry=registry)
            for name, (text, labels) in _GAUGES.items()
        }
        self._histograms = {
            name: Histogram(f"patchline_{name}", text, labels, buckets=buckets, registry=registry)
            for name, (text, labels, buckets) in _HISTOGRAMS.items()
        }
        self._chip_gauges = {
            name: Gauge(f"patchline_device_{name}", text, registry=None) for name, text in _CHIP_GAUGES.items()
        }
        self._gauges["fps"].labels(device).set_function(self.fps)
        self.backpressure = Backpressure()
        self._gauges["lanes_refused"].set_function(lambda: self.backpressure.waiting)
        for reason in Reason:  # a series that starts at 1 would hide its first error from increase()
            self._counters["errors"].labels(reason)

    def serve(self, host: str, port: int, health: Health) -> int:
        """Serve the metrics and the health probes over HTTP. Return the port; 0 picks a free one."""
        health.is_blocked = lambda: self.backpressure.waiting > 0
        return serve(host, port, metrics.application(self.registry), health)

    def add_category(self, category: str) -> None:
        """Have a further category counted by its name."""
        self._categories |= {category}
        self.set_category_ready(category, True)

    def set_bank(self, category: str, bank: MemoryBank, reference: drift.Reference | None) -> None:
        """Set the memory bank that a category is judged by from now on.

        Args:
            category: of the bank.
            bank: the memory bank.
            reference: what the scores are compared with. If None, the drift is not measured.
        """
        manifest, version = bank.manifest, (bank.digest or "")[:SHORT]
        ratio = manifest.calibration.held_out_median / manifest.thresholds.fail
        self._gauges["calibrated_score_ratio"].labels(category).set(ratio)
        with self._lock:
            self._references.pop(category, None)
            self._charts.forget(category)
            for labels in [labels for labels in self._drift_shown if labels[1] == category]:
                self._drift_shown.discard(labels)
                for name in _DRIFT_GAUGES:
                    self._gauges[name].remove(*labels)
            if reference is not None:
                self._references[category] = bank.digest, reference
        before, self._banks[category] = self._banks.get(category), version
        if before not in (None, version):
            self._gauges["bank_info"].remove(category, before)
        self._gauges["bank_info"].labels(category, version).set(1)

    def bank_switched(self, category: str) -> None:
        """Record that a category got another memory bank while the worker ran."""
        self._counters["bank_switches"].labels(category).inc()

    def set_bank_not_activated(self, category: str, failed: bool) -> None:
        """Record whether the active version of the store cannot be served."""
        self._gauges["bank_not_activated"].labels(category).set(failed)

    def watch_bank_store(self, read_at: Callable[[], float]) -> None:
        """Show when the bank store was last read, in epoch seconds. Only workers that have a store show it."""
        text = "When the bank store was last read."
        Gauge("patchline_bank_store_read_timestamp_seconds", text, registry=self.registry).set_function(read_at)

    def set_queue_limit(self, queue: str, max_length: int) -> None:
        """Set the length at which RabbitMQ refuses further messages of a queue."""
        self._gauges["queue_max_length"].labels(queue).set(max_length)

    def fps(self) -> float:
        """Return the confirmed verdicts per second over the last seconds."""
        with self._lock:
            self._drop_old()
            return len(self._confirmed_at) / _FPS_WINDOW_S

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Record the duration of a stage of an inspection."""
        self._histograms["stage_seconds"].labels(stage).observe(seconds)

    def observe_confirmation(self, seconds: float) -> None:
        """Record the time until RabbitMQ confirmed a message, or until that failed."""
        self._histograms["confirm_seconds"].observe(seconds)

    def job_received(self, captured_at_ms: int, now_ms: int) -> None:
        """Record that a job was taken from the queue."""
        self._gauges["behind_seconds"].set(max(0, now_ms - captured_at_ms) / 1000)

    def verdict_confirmed(self, verdict: messages.Verdict, confirmed_at_ms: int) -> None:
        """Record a verdict that RabbitMQ has confirmed."""
        line = self._line_label(verdict.line)
        category = verdict.category if verdict.category in self._categories else messages.UNKNOWN
        for decision in messages.Decision:  # all of them, so that every series starts at 0
            self._counters["images"].labels(line, category, decision).inc(decision is verdict.decision)
        if verdict.score is not None and verdict.thresholds is not None:
            self._histograms["score_ratio"].labels(line, category).observe(verdict.score / verdict.thresholds.fail)
            if verdict.attempt == 1 and not verdict.replay:  # each part counts once
                self._observe_drift(line, category, verdict.score, verdict.bank_version)
        if verdict.reason is not None:
            self._counters["errors"].labels(verdict.reason).inc()
        if verdict.captured_at is not None:
            elapsed_ms = max(0, confirmed_at_ms - verdict.captured_at)
            self._histograms["capture_to_verdict_seconds"].observe(elapsed_ms / 1000)
        with self._lock:
            self._confirmed_at.append(self._clock())
            self._drop_old()

    def job_set_apart(self) -> None:
        """Record that a job was sent to the queue of the suspects."""
        self._counters["jobs_set_apart"].inc()

    def dead_letter_incomplete(self) -> None:
        """Record a dead letter that RabbitMQ does not take as it is."""
        self._counters["dead_letters_incomplete"].inc()

    def set_category_ready(self, category: str, ready: bool) -> None:
        """Record whether a category is served, or its memory bank or model cannot be used."""
        self._gauges["category_ready"].labels(category).set(ready)

    def watch_chip(self, number: int, stop: threading.Event) -> None:
        """Export the state of an Ascend chip until `stop` is set. While npu-smi fails, its gauges are absent."""
        registered = False
        while not stop.is_set():
            try:
                (chip,) = [chip for chip in npu.read() if chip.device == number]
            except (npu.NpuError, ValueError):
                chip = None
            if chip is not None:
                for name, gauge in self._chip_gauges.items():
                    gauge.set(getattr(chip, name))
            if registered != (chip is not None):
                registered = not registered
                for gauge in self._chip_gauges.values():
                    (self.registry.register if registered else self.registry.unregister)(gauge)
            stop.wait(_CHIP_INTERVAL_S)

    def device_failed(self) -> None:
        """Record a failure of the device."""
        self._counters["device_failures"].inc()

    def set_device_lost(self, lost: bool) -> None:
        """Record whether the device holds a process that cannot be ended."""
        self._gauges["device_lost"].set(lost)

    def redis_failed(self) -> None:
        """Record a failed request to Redis."""
        self._counters["redis_failures"].inc()

    def _observe_drift(self, line: str, category: str, score: float, version: str | None) -> None:
        with self._lock:
            served, reference = self._references.get(category, (None, None))
            if reference is None or served != version:  # a job that the bank before has judged
                return
            share = self._charts.add(line, category, reference, score)
            if share is not None:
                self._drift_shown.add((line, category))
                values = (share, reference.lower, reference.upper)
                for name, value in zip(_DRIFT_GAUGES, values, strict=True):
                    self._gauges[name].labels(line, category).set(value)

    def _line_label(self, line: str) -> str:
        with self._lock:
            if line in self._lines or len(self._lines) < _MAX_LINES:
                self._lines.add(line)
                return line
        return "other"

    def _drop_old(self) -> None:
        while self._confirmed_at and self._confirmed_at[0] < self._clock() - _FPS_WINDOW_S:
            self._confirmed_at.popleft()


class SupervisorMetrics:
    """The metrics of a supervisor."""

    def __init__(self, devices: list[str]) -> None:
        self.registry = metrics.Registry()
        self._restarts = Counter(
            "patchline_worker_restarts",
            "Restarts of a worker process.",
            ("device", "cause"),
            registry=self.registry,
        )
        for device in devices:
            for cause in Cause:
                self._restarts.labels(device, cause)

    def worker_restarted(self, device: Device, cause: Cause) -> None:
        """Record the restart of a worker process."""
        self._restarts.labels(str(device), cause).inc()
