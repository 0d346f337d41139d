"""The cache, the metrics and the supervisor of a worker, with a controlled clock."""

import errno
import itertools
import os
import subprocess
import sys
import threading
from functools import partial
from types import SimpleNamespace

import pytest
import redis

from patchline import config
from patchline.broker.base import BrokerError
from patchline.cli import line as command_line
from patchline.config import Worker
from patchline.devices.backbone import Device
from patchline.protocol.errors import DeviceStuckError, MismatchError, Reason, SetupError
from patchline.protocol.messages import Decision, Verdict
from patchline.runtime import health as runtime_health
from patchline.runtime import notify
from patchline.runtime.container import Limits
from patchline.runtime.health import Health
from patchline.worker import lost_device, process, sizes, supervisor, verdict_cache
from patchline.worker.metrics import Metrics, SupervisorMetrics
from patchline.worker.sizes import Sizes

NOW = 1_800_000_000_000


def verdict(line="l", decision=Decision.PASS, **changes):
    fields = {
        "job_id": "j",
        "line": line,
        "category": "bottle",
        "part_id": "p",
        "decision": decision,
        "worker": "w",
        "device": "cpu:0",
        "attempt": 1,
        "captured_at": NOW,
        "received_at": NOW,
        "decided_at": NOW,
    }
    return Verdict(**(fields | changes))


def test_a_dead_redis_is_not_asked_again_for_a_while(monkeypatch):
    now, calls, failures = [0.0], [], []
    cache = verdict_cache.RedisVerdictCache(config.Redis(), lambda: failures.append(1), clock=lambda: now[0])

    def fail(name):
        calls.append(name)
        raise redis.ConnectionError("refused")

    monkeypatch.setattr(cache._client, "get", fail)
    assert cache.get_verdict("a") is None
    assert cache.get_verdict("b") is None
    cache.save_verdict(verdict())
    cache.close()
    assert (len(calls), len(failures)) == (1, 1)
    now[0] = 6.0
    assert cache.get_verdict("c") is None
    assert (len(calls), len(failures)) == (2, 2)


def test_a_hanging_redis_blocks_neither_a_lane_nor_the_drain(monkeypatch):
    cache = verdict_cache.RedisVerdictCache(config.Redis(), lambda: None)
    answer, asked = threading.Event(), threading.Event()

    def hang(**_):
        asked.set()
        answer.wait()
        raise redis.ConnectionError("timeout")

    monkeypatch.setattr(cache._client, "pipeline", hang)
    monkeypatch.setattr(verdict_cache, "_CLOSE_TIMEOUT_S", 0.0)
    cache.save_verdict(verdict())
    assert asked.wait(10)
    for number in range(verdict_cache._MAX_PENDING + 10):
        cache.save_verdict(verdict(job_id=f"j{number}"))
    cache.save_picture("j0", b"jpeg")
    cache.close()
    assert cache._pending.qsize() == verdict_cache._MAX_PENDING
    answer.set()


def test_a_verdict_of_another_version_is_ignored(monkeypatch):
    cache = verdict_cache.RedisVerdictCache(config.Redis(), lambda: None)
    monkeypatch.setattr(cache._client, "get", lambda _: b'{"job_id": "j", "colour": "red"}')
    assert cache.get_verdict("j") is None


def test_an_empty_url_disables_redis():
    cache = verdict_cache.connect(config.Redis(url=""), lambda: None)
    cache.save_verdict(verdict())
    assert cache.get_verdict("j") is None


def test_fps_is_the_mean_of_the_last_ten_seconds():
    now = [0.0]
    metrics = Metrics("cpu:0", ["bottle"], clock=lambda: now[0])
    for second in range(20):
        now[0] = float(second)
        metrics.verdict_confirmed(verdict(), NOW)
        metrics.verdict_confirmed(verdict(), NOW)
    assert metrics.fps() == pytest.approx(2.2)
    assert metrics.registry.get_sample_value("patchline_fps", {"device": "cpu:0"}) == pytest.approx(2.2)
    now[0] = 100.0
    assert metrics.fps() == 0


def test_a_verdict_is_counted_in_the_metrics():
    metrics = Metrics("cpu:0", ["bottle"])
    metrics.verdict_confirmed(verdict(decision=Decision.ERROR, reason=Reason.CRASHED), NOW + 250)
    value = metrics.registry.get_sample_value
    assert value("patchline_images_total", {"line": "l", "category": "bottle", "decision": "error"}) == 1
    assert value("patchline_errors_total", {"reason": "crashed"}) == 1
    assert value("patchline_capture_to_verdict_seconds_sum") == 0.25


def test_the_number_of_label_values_is_bounded():
    metrics = Metrics("cpu:0", ["bottle"])
    for number in range(200):
        metrics.verdict_confirmed(verdict(line=f"line{number}", category=f"made-up-{number}"), NOW)
    (family,) = [family for family in metrics.registry.collect() if family.name == "patchline_images"]
    lines = {sample.labels["line"] for sample in family.samples}
    assert len(lines) == 65
    assert {sample.labels["category"] for sample in family.samples} == {"unknown"}


class Ended:
    """A process that has ended."""

    pid = 2**22 + 1  # no such process group

    code = 1

    def poll(self):
        return self.code

    def wait(self, timeout=None):
        return self.code


class Running(Ended):
    """A process that still runs."""

    code = None


@pytest.fixture
def worker(monkeypatch):
    """The worker process of a device. Each time that it is started, it ends immediately."""
    restarts = []
    worker = supervisor.WorkerProcess(
        Device("cpu", 0), ["true"], None, 1, Worker(), lambda *event: restarts.append(event)
    )
    worker.restarts = restarts
    monkeypatch.setattr(supervisor.subprocess, "Popen", lambda *_, **__: Ended())
    yield worker
    worker.notifications.close()


def test_the_pause_before_a_restart_doubles(worker):
    starts, now = [], 0.0
    while len(starts) < 6:
        worker.watch(now)
        if worker.process is not None:
            starts.append(now)
            worker.watch(now)
        now += 0.5
    pauses = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert set(worker.restarts) == {(Device("cpu", 0), supervisor.Cause.ENDED)}


def test_the_pause_before_a_restart_stays_at_its_maximum_however_often_a_worker_ends(worker):
    now = 0.0
    for _ in range(2200):  # a start and an end each
        worker.watch(now)
        now = max(now, worker.restart_at)
    assert worker.failures == 1100
    assert worker.restart_at - now <= worker.settings.restart_pause_max_s


def test_a_worker_that_cannot_be_started_is_tried_again_and_ends_no_supervisor(worker, monkeypatch):
    starts, now = [], 0.0

    def refuse(*_, **__):
        starts.append(now)
        if len(starts) < 4:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")  # as fork(2), at a limit
        return Running()

    monkeypatch.setattr(supervisor.subprocess, "Popen", refuse)
    while worker.process is None:
        worker.watch(now)
        now += 0.5
    assert starts == [0.0, 1.0, 3.0, 7.0]
    assert worker.restarts == []


def test_a_worker_starts_also_if_its_cores_are_not_given_to_the_container_any_more(monkeypatch):
    number = max(os.sched_getaffinity(0)) + 1000
    worker = supervisor.WorkerProcess(Device("cpu", 0), ["true"], frozenset({number}), 1, Worker(), lambda *_: None)
    try:
        worker.watch(0.0)
        assert worker.process.wait(10.0) == 0
    finally:
        worker.notifications.close()


def test_a_worker_whose_model_and_bank_do_not_match_is_not_started_again(worker, monkeypatch):
    mismatched = Ended()
    mismatched.code = MismatchError.exit_code
    monkeypatch.setattr(supervisor.subprocess, "Popen", lambda *_, **__: mismatched)
    for now in (0.0, 0.0, 100.0, 200.0):
        worker.watch(now)
    assert (worker.process, worker.mismatched, worker.restarts) == (None, True, [])


def test_a_supervisor_of_workers_that_cannot_serve_ends_with_an_error(monkeypatch):
    command = [sys.executable, "-c", f"raise SystemExit({MismatchError.exit_code})"]
    commands = {Device("cpu", number): command for number in range(2)}
    with pytest.raises(MismatchError, match="no device can serve any category"):
        supervisor.supervise(commands, Worker(), lambda *_: None, threading.Event())


def test_a_supervisor_serves_its_metrics_as_workers_do_and_is_alive_while_it_looks_at_them(plant, monkeypatch):
    """So a client that says nothing is left alone after a while: see tests/unit/test_probes.py."""
    served, states = [], []
    monkeypatch.setattr(runtime_health, "try_to_serve", lambda *arguments: served.append(arguments))

    def supervise(*_, on_turn):
        states.append(served[0][3].is_ready())
        on_turn()
        states.append((served[0][3].is_alive(), served[0][3].is_ready()))

    monkeypatch.setattr(supervisor, "supervise", supervise)
    for port in (9100, 0):  # 0: no metrics at all
        command_line.worker(devices="cpu:0,cpu:1", metrics_port=port, config_file=plant / "config.yaml")
    assert [(port, doing) for _, port, _, _, doing in served] == [(9099, "supervising"), (None, "supervising")]
    assert states[:2] == [False, (True, True)]


def test_a_supervisor_tells_of_each_turn(monkeypatch):
    stop, turns = threading.Event(), []
    monkeypatch.setattr(supervisor.WorkerProcess, "watch", lambda *_: None)
    commands = {Device("cpu", 0): ["true"]}
    on_turn = lambda: turns.append(stop.set())  # noqa: E731
    supervisor.supervise(commands, Worker(), lambda *_: None, stop, on_turn=on_turn)
    assert len(turns) == 1


def test_a_running_worker_without_progress_is_replaced(worker, monkeypatch):
    monkeypatch.setattr(supervisor.subprocess, "Popen", lambda *_, **__: Running())
    settings = worker.settings
    worker.watch(0.0)
    worker.watch(settings.start_s)
    assert worker.restarts == []
    monkeypatch.setenv("NOTIFY_SOCKET", worker.notifications.address)
    now = settings.start_s
    notify.send(notify.READY)
    worker.watch(now)
    for _ in range(3):
        now += settings.stuck_s
        notify.send(notify.ALIVE)
        worker.watch(now)
    worker.watch(now + settings.stuck_s)
    assert worker.restarts == []
    worker.watch(now + settings.stuck_s + 0.1)
    assert worker.restarts == [(Device("cpu", 0), supervisor.Cause.STUCK)]
    assert worker.process is None


def test_a_worker_that_goes_on_loading_is_not_replaced_however_long_it_takes(worker, monkeypatch):
    monkeypatch.setattr(supervisor.subprocess, "Popen", lambda *_, **__: Running())
    worker.watch(0.0)
    monkeypatch.setenv("NOTIFY_SOCKET", worker.notifications.address)
    start_s = worker.settings.start_s
    for loaded in range(1, 10):
        notify.extend_start(start_s)  # as after each bank
        worker.watch(loaded * start_s)
    assert (worker.restarts, worker.ready) == ([], False)
    worker.watch(10 * start_s + 0.1)
    assert worker.restarts == [(Device("cpu", 0), supervisor.Cause.STUCK)]


def test_a_killed_worker_that_does_not_end_is_waited_for_and_not_joined_by_another(worker, monkeypatch):
    class Unkillable(Running):
        def wait(self, timeout=None):
            if self.code is None:
                raise subprocess.TimeoutExpired("worker", timeout)
            return self.code

    process, starts = Unkillable(), []
    monkeypatch.setattr(supervisor.subprocess, "Popen", lambda *_, **__: starts.append(1) or process)
    worker.watch(0.0)
    now = worker.settings.start_s + 0.1
    for _ in range(100):
        worker.watch(now)
        now += 1.0
    assert (len(starts), worker.restarts) == (1, [])
    process.code = -9
    worker.watch(now)
    assert worker.restarts == [(Device("cpu", 0), supervisor.Cause.STUCK)]
    worker.watch(worker.restart_at)
    assert len(starts) == 2


def test_a_worker_with_a_lost_device_is_alive_but_not_ready_until_the_device_is_back(monkeypatch):
    now, states = [0.0], []
    health, metrics = Health(60.0, clock=lambda: now[0]), Metrics("ascend:0", ["bottle"])
    stop = threading.Event()
    health.is_consuming = lambda: True
    lost = partial(metrics.registry.get_sample_value, "patchline_device_lost")
    assert lost() == 0

    def wait(_):
        now[0] += 50.0
        states.append((health.is_alive(), health.is_ready(), lost()))
        return False

    monkeypatch.setattr(stop, "wait", wait)
    lost_device.wait(DeviceStuckError("lost", lambda: len(states) == 5), metrics, health, stop, 300.0)
    assert states == [(True, False, 1)] * 5
    assert lost() == 0


def test_restarts_are_counted_by_device_and_cause():
    metrics = SupervisorMetrics(["cpu:0"])
    metrics.worker_restarted(Device("cpu", 0), supervisor.Cause.STUCK)
    value = partial(metrics.registry.get_sample_value, "patchline_worker_restarts_total")
    assert [value({"device": "cpu:0", "cause": cause}) for cause in ("stuck", "ended")] == [1, 0]


GB = 10**9


@pytest.mark.parametrize(
    ("device", "settings", "limits", "expected"),
    [
        ("cpu", {}, Limits(64, None), Sizes(66, 198, 264)),
        ("cpu", {}, Limits(1, None), Sizes(2, 6, 8)),
        ("ascend:0", {}, Limits(64, None), Sizes(2, 6, 8)),
        ("ascend:0", {"hosts_per_chip": 2}, Limits(64, None), Sizes(3, 9, 12)),
        ("cpu", {"lanes": 4}, Limits(64, None), Sizes(4, 4, 8)),
        ("cpu", {"concurrency": 1}, Limits(64, None), Sizes(1, 3, 4)),
        ("cpu", {}, Limits(64, 4 * GB), Sizes(3, 9, 12, 12)),
        ("cpu", {}, Limits(64, 16 * GB), Sizes(12, 36, 48, 50)),
        ("cpu", {}, Limits(64, 1 * GB), Sizes(1, 2, 3, 3)),
        ("cpu", {}, Limits(64, GB // 10), Sizes(1, 1, 1, 0)),
        ("cpu", {"concurrency": 8, "lanes": 20}, Limits(1, 1 * GB), Sizes(8, 20, 20, 3)),
    ],
)
def test_the_sizes_of_a_worker_follow_its_device_and_the_limits_of_its_container(device, settings, limits, expected):
    category = {"backbone": "b", "layer": "l", "resize": 64, "imagesize": 64}
    plant = config.Config.model_validate({"categories": {"c": category}, "worker": settings})
    assert sizes.choose(plant, Device.parse(device), limits) == expected


def test_more_hosts_than_a_chip_takes_are_refused_with_what_to_change():
    category = {"backbone": "b", "layer": "l", "resize": 64}
    categories = {f"c{side}": category | {"imagesize": side} for side in range(32, 44)}
    plant = config.Config.model_validate({"categories": categories, "worker": {"hosts_per_chip": 3}})
    names, chip = list(categories), Device("ascend", 1)
    assert sizes.hosts(plant, names[:10], chip) == 3
    assert sizes.hosts(plant, names, Device("cpu", 0)) == 3
    with pytest.raises(SetupError, match=r"ascend:1: 11 backbones with 3 hosts each .* lower worker\.hosts_per_chip"):
        sizes.hosts(plant, names[:11], chip)


def test_a_worker_for_smaller_images_does_more_at_once_in_the_same_memory():
    category = {"backbone": "b", "layer": "l", "resize": 64, "imagesize": 64}
    images = {"max_bytes": 16_000_000, "max_pixels": 20_000_000}
    plant = config.Config.model_validate({"categories": {"c": category}, "images": images})
    assert sizes.choose(plant, Device.parse("cpu"), Limits(64, 4 * GB)) == Sizes(11, 33, 44, 62)


@pytest.mark.parametrize(("max_held", "categories", "expected"), [(None, 200, 24), (67, 1, 24), (67, 5, 8), (8, 20, 1)])
def test_one_category_may_use_all_lanes_and_the_memory_bounds_those_of_all(max_held, categories, expected):
    assert Sizes(6, 18, 24, max_held).prefetch_of_each(categories) == expected


def test_cpu_devices_share_the_cores(monkeypatch):
    monkeypatch.setattr(supervisor.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    devices = [Device("cpu", 0), Device("cpu", 1), Device("ascend", 0)]
    shares = [supervisor._share_of_cores(device, devices) for device in devices]
    assert shares == [frozenset({0, 2}), frozenset({1, 3}), None]


@pytest.mark.parametrize("text", ["gpu", "cpu:", "cpu:-1", "ascend", "cpu:1x", ""])
def test_devices_are_parsed_strictly(text):
    if text == "ascend":
        assert Device.parse(text) == Device("ascend", 0)
        return
    with pytest.raises(SetupError, match="is not one of"):
        Device.parse(text)


def test_a_lane_that_waits_when_an_ending_worker_closes_its_connection_prints_no_stack_trace():
    def run():
        raise BrokerError("the connection to RabbitMQ is closed")

    lane = SimpleNamespace(run=run, stop=threading.Event())
    with pytest.raises(BrokerError):
        process._run_lane(lane, [])
    lane.stop.set()
    process._run_lane(lane, [])
