"""The gate's process: its wiring and its life."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial

import structlog

from patchline import config
from patchline.gate import instance as instances
from patchline.gate.arms import Arm
from patchline.gate.belt import Belt
from patchline.gate.decide import Gate
from patchline.gate.following import Following
from patchline.gate.journal import Journal
from patchline.gate.lease import Lease, Role
from patchline.gate.link import Link
from patchline.gate.memory import Memory
from patchline.gate.metrics import Metrics, PlcMetrics
from patchline.gate.service import Service
from patchline.plc.station import Station
from patchline.protocol.gate_messages import Ping
from patchline.runtime import connections, damage, garbage, health, notify
from patchline.runtime.connections import now_ms
from patchline.runtime.status import Identity, StatusSender
from patchline.runtime.uptime import boot_s

_log = structlog.get_logger(__name__)
_STALE_AFTER_S = 1.0
_STUCK_S = 10.0
_ALIVE_INTERVAL_S = 1.0
_PARTS_PER_SLOT = 4  # to remember: parts that have passed the arm may still be confirmed


def run(
    settings: config.Config,
    line: str,
    open_arm: Callable[[str], Arm],
    stop: threading.Event,
    instance: str | None = None,
    metrics_port: int | None = None,
) -> None:
    """Serve one line until `stop` is set. Restores the state of an earlier process.

    Args:
        settings: the configuration.
        line: the line of this gate.
        open_arm: opens the arm, given the name of the gate.
        stop: ends the gate when set.
        instance: the name of this gate. None: the name of the host.
        metrics_port: port on `worker.metrics_host` for metrics and probes; None: none.

    Raises:
        SetupError: the gate's files, its name or the arm cannot be used.
        TopologyMismatch: a queue is missing or has other arguments, found at the first contact with RabbitMQ.
    """
    folder, rules, quick = settings.paths.gate, settings.gate, _with_short_times(settings)
    with ExitStack() as stack:
        name = stack.enter_context(closing(instances.claim(folder, line, instance))).name
        arm = open_arm(name)
        output = stack.enter_context(closing(arm.output))
        path = folder / f"{line}.{name}.sqlite"
        broker = stack.enter_context(connections.connect(quick, f"gate {line} {name}"))
        # Closed before the broker: its last tasks acknowledge deliveries.
        memory = stack.enter_context(closing(Memory(path, rules.remember_jobs, folder / f"{line}.sqlite")))
        held_last, has_partner = memory.load_held_last(), memory.load_has_partner()
        lease = Lease(name, uuid.uuid4().hex, rules.lease_ms / 1000, held_last, boot_s(), has_partner)
        belt = None if arm.station is None else _belt(settings, line)
        gate = Gate(partial(rules.rules, line), _STALE_AFTER_S, rules.remember_jobs, belt)
        measured = Metrics(line, gate, lambda: lease.role(boot_s()), settings.categories)
        journal = stack.enter_context(closing(Journal(path.with_suffix(".journal"), measured.journal_failed)))
        damage.show(measured.registry, line, folder)
        link = stack.enter_context(Link(broker, settings, line, name, partial(_ping, lease, name), measured.queues))
        measured.show_name(name, lambda: link.name_taken)
        follower = _follower(settings, line, name, arm.station, belt, gate, measured)
        service = Service(line, name, gate, lease, link, output, journal, memory, measured, boot_s, now_ms, follower)
        service.restore()
        life = _Life(gate, lease, link, service)
        health.try_to_serve(settings.worker.metrics_host, metrics_port, measured.registry, life, "acting")
        stack.enter_context(_status(quick, line, name, life))
        _log.info("gate started", line=line, gate=name, expected=gate.parts.expected, to_repeat=gate.parts.undone)
        _run(service, life, stop, settings.gate.max_wait_ms / 1000)
    _log.info("gate stopped", line=line, gate=name, expected=gate.parts.expected, late_verdicts=gate.late_verdicts)


def _status(settings: config.Config, line: str, name: str, life: _Life) -> StatusSender:
    broker = connections.connect(settings, f"gate {line} {name} status", quiet=True)
    identity, makes = Identity("gate", name, line), settings.broker.make_queues
    return StatusSender(broker, identity, life.report, now_ms, makes, arm=life.arm)


def _belt(settings: config.Config, line: str) -> Belt:
    rules = settings.plc.rules(line)
    return Belt(rules, settings.plc.codes, _PARTS_PER_SLOT * rules.slots)


def _follower(
    settings: config.Config,
    line: str,
    name: str,
    station: Station | None,
    belt: Belt | None,
    gate: Gate,
    measured: Metrics,
) -> Following | None:
    if station is None or belt is None:
        return None
    plc_metrics = PlcMetrics(measured.registry, line, boot_s)
    return Following(line, name, station, belt, gate, settings.plc, plc_metrics, now_ms)


def _with_short_times(settings: config.Config) -> config.Config:
    """Return the settings with the times of a gate's connection.

    A frozen gate has to lose its connection soon, so that a standby can act, and a channel that confirms nothing. After
    an outage all gates of a line have to be back before one of them holds the lease.
    """
    heartbeat_s, lease_s = settings.gate.heartbeat_s, settings.gate.lease_ms / 1000
    times = {
        "heartbeat_s": heartbeat_s,
        "confirm_timeout_s": float(heartbeat_s),
        "reconnect_max_s": min(lease_s / 2, settings.broker.reconnect_max_s),
    }
    return settings.model_copy(update={"broker": settings.broker.model_copy(update=times)})


def _run(service: Service, life: _Life, stop: threading.Event, forget_after_s: float) -> None:
    garbage.settle()
    notify.send(notify.READY)
    alive_at = 0.0
    while not stop.is_set():
        service.step()
        now = boot_s()
        life.record_step(now)
        if now >= alive_at:
            alive_at = now + _ALIVE_INTERVAL_S
            notify.send(notify.ALIVE)
            service.forget_overdue(forget_after_s)
    notify.send(notify.STOPPING)


def _ping(lease: Lease, name: str) -> Ping:
    now = boot_s()
    active, current = lease.is_active(now), lease.is_current(now)
    return Ping(gate=name, process=lease.process, sent_at=now, active=active, current=current)


class _Life:
    """What a gate tells about itself: probes and status."""

    def __init__(self, gate: Gate, lease: Lease, link: Link, service: Service) -> None:
        self._gate, self._lease, self._link, self._service = gate, lease, link, service
        self._last_step = boot_s()

    def record_step(self, now: float) -> None:
        """Record that the gate makes progress."""
        self._last_step = now

    def is_alive(self) -> bool:
        """Return False if the gate is stuck."""
        return boot_s() - self._last_step < _STUCK_S

    def is_ready(self) -> bool:
        """Return True if the gate hears its line, acting or as a standby, and its arm acknowledges."""
        hears = self._lease.role(boot_s()) in (Role.SERVING, Role.STANDBY)
        return self.is_alive() and hears and self._service.arm_acknowledges

    def report(self) -> tuple[str, dict[str, int]]:
        """Return the state of this gate, and what it holds."""
        parts = self._gate.parts
        holds = {"expected": parts.expected, "undone": parts.undone, "unsent_acts": self._link.unsent}
        return self._lease.role(boot_s()), holds

    def arm(self) -> str:
        """Return the state of the arm of this gate, as `Status` names it."""
        return "working" if self._service.arm_works else "faulty"
