"""The line in a storm. `make chaos` runs it as it stands, `make soak` with CHAOS_SCALE times as much of everything."""

import json
import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest

from patchline.services import private_servers
from tests.chaos import reckoning, scene
from tests.chaos.storm import Storm
from tests.slow_disk import SlowDisk

SCALE = int(os.environ.get("CHAOS_SCALE", "1"))
SEED = int(os.environ.get("CHAOS_SEED", "4"))
JOBS, CLUSTER_JOBS, BROKEN_JOBS = 2500 * SCALE, 600, 150
pytestmark = pytest.mark.timeout(500 * SCALE)


@pytest.fixture(scope="module")
def reckonings():
    """What each run found; written when all have ended."""
    found = {}
    yield found
    reckoning.write(found)


@pytest.fixture(scope="module")
def own():
    """A broker and a Redis that may be ended and started again, and the disk of the broker."""
    with private_servers.temporary_folder() as home:
        disk = SlowDisk(home)
        node = private_servers.rabbitmq(home / "rabbitmq")
        node = replace(node, server=disk.attach_to(node.server))
        redis, redis_url = private_servers.redis(home / "redis")
        with private_servers.start_all([node.server, redis]):
            yield node, redis, redis_url, disk


def pictures(texture_folder, folder, count, planted=0, poison=0):
    """`count` different files of 16 pictures; some truncated, some that end every worker that tries them."""
    folder.mkdir()
    sources = sorted((texture_folder / "test").glob("*/*.png"))
    for number in range(count):
        shutil.copy(sources[number % len(sources)], folder / f"n{number:05}.png")
    for number in range(planted):
        spoilt = folder / f"n{number * (count // planted):05}.png"
        spoilt.write_bytes(spoilt.read_bytes()[:-200])
    for number in range(poison):
        (folder / f"n{(number + 1) * (count // (poison + 1)):05}.png").rename(folder / f"poison-{number}.png")
    return folder


@contextmanager
def joined(nodes):
    private_servers.join_cluster(nodes)
    yield


def settle(on, amqp_url, quiet_s=30.0):
    """Wait for the publisher's end, for the last verdict and for the last act; then take the dead letters.

    When no verdict has come for `quiet_s`, none will, and the reckoning says what is lost.
    """
    on.publisher.wait(360 * SCALE)
    accepted = {json.loads(each)["job_id"] for each in on.said("publisher").splitlines()}
    while on.verdicts.keys() < accepted and time.monotonic() - on.last_verdict_at < quiet_s:
        time.sleep(0.2)
    time.sleep(3.0)
    scene.terminate(on.gate)
    return scene.dead_letters(amqp_url)


def test_nothing_is_lost_wrong_or_done_twice_in_a_storm(own, plant, texture_folder, tmp_path, reckonings):
    node, redis, redis_url, disk = own
    folder = pictures(texture_folder, tmp_path / "pictures", JOBS, planted=10, poison=2)
    started = time.monotonic()
    with scene.set_up(plant, tmp_path / "plant", [node.url], redis_url, folder, rate=18, disk=disk) as on:
        storm = Storm(on, SEED, node, redis, disk)
        each = {"worker_kill": 18, "outside_kill": 6, "cut": 20, "delay": 3, "freeze": 2, "flood": 1}
        each |= {"broker_restart": 3, "broker_alarm": 2, "disk_stall": 2, "redis_outage": 2}
        storm.rage(**{kind: count * SCALE for kind, count in each.items()})
        dead = settle(on, node.url)
        found = reckoning.reckon(on, storm, folder, dead, time.monotonic() - started)
    reckonings["storm"] = found
    assert found.sound, found
    assert found.accepted == JOBS
    assert storm.done["worker_kill"] >= 20


def test_a_cluster_that_loses_a_node_loses_no_job(plant, texture_folder, tmp_path, reckonings):
    folder = pictures(texture_folder, tmp_path / "pictures", CLUSTER_JOBS)
    started = time.monotonic()
    with private_servers.temporary_folder() as home:
        names, nodes = private_servers.cluster(home / "cluster", 3)
        redis, redis_url = private_servers.redis(home / "redis")
        urls = [node.url for node in nodes]
        with (
            private_servers.start_all([names, *(node.server for node in nodes), redis]),
            joined(nodes),
            scene.set_up(plant, tmp_path / "plant", urls, redis_url, folder, rate=15) as on,
        ):
            storm = Storm(on, SEED)
            while on.decided() < CLUSTER_JOBS // 10:
                time.sleep(0.1)
            storm.node_loss(nodes[0])
            storm.bring_back(nodes[0], "node_return")
            nodes[1].server.stop()
            storm.bring_back(nodes[1], "node_restart")
            dead = settle(on, urls[2])
            found = reckoning.reckon(on, storm, folder, dead, time.monotonic() - started)
    reckonings["cluster"] = found
    assert found.sound, found
    assert found.accepted == CLUSTER_JOBS


def test_an_ack_before_the_publish_would_be_found(own, plant, texture_folder, tmp_path):
    node, _, redis_url, _ = own
    folder = pictures(texture_folder, tmp_path / "pictures", BROKEN_JOBS)
    with scene.set_up(plant, tmp_path / "plant", [node.url], redis_url, folder, rate=20, broken="ack_first") as on:
        storm = Storm(on, SEED)
        for _ in range(3):
            point = on.failpoints / "publish"
            point.touch()
            while point.exists():
                time.sleep(0.05)
        found = reckoning.reckon(on, storm, folder, settle(on, node.url, quiet_s=8.0), 0)
    assert found.lost > 0, found
    assert not found.sound


def test_a_publisher_without_its_spool_would_be_found(own, plant, texture_folder, tmp_path):
    node, redis, redis_url, _ = own
    folder = pictures(texture_folder, tmp_path / "pictures", BROKEN_JOBS)
    with scene.set_up(plant, tmp_path / "plant", [node.url], redis_url, folder, rate=20, broken="no_spool") as on:
        storm = Storm(on, SEED, node, redis)
        while on.decided() < 10:
            time.sleep(0.1)
        storm.rage(broker_restart=1)
        found = reckoning.reckon(on, storm, folder, settle(on, node.url, quiet_s=8.0), 0)
    assert found.lost > 0, found
    assert not found.sound
