"""The line in a storm of faults. `make soak` multiplies jobs and faults by CHAOS_SCALE."""

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from patchline.services import private_servers
from tests.chaos import reconciliation, scene
from tests.chaos.storm import Storm, wait_until

SCALE = int(os.environ.get("CHAOS_SCALE", "1"))
SEED = int(os.environ.get("CHAOS_SEED", "4"))
JOBS, CLUSTER_JOBS, BROKEN_JOBS = 2500 * SCALE, 600, 150
pytestmark = pytest.mark.timeout(500 * SCALE)


def copy_images(texture_folder, folder, count, truncated=0, poison=0):
    """Write `count` files from 16 images. Some are truncated, some crash every worker that inspects them."""
    folder.mkdir()
    sources = sorted((texture_folder / "test").glob("*/*.png"))
    for number in range(count):
        shutil.copy(sources[number % len(sources)], folder / f"n{number:05}.png")
    for number in range(truncated):
        file = folder / f"n{number * (count // truncated):05}.png"
        file.write_bytes(file.read_bytes()[:-200])
    for number in range(poison):
        (folder / f"n{(number + 1) * (count // (poison + 1)):05}.png").rename(folder / f"poison-{number}.png")
    return folder


@contextmanager
def joined(nodes):
    private_servers.join_cluster(nodes)
    yield


def finish(line, amqp_url, quiet_s=30.0):
    """Wait for the publisher, the last verdict and the last action of the gate. Return the dead letters.

    After `quiet_s` without a verdict, the missing ones count as lost. The gate has as long for its acts after that: it
    may have to connect again, and wait for its lease.
    """
    line.publisher.wait(360 * SCALE)
    accepted = line.accepted().keys()
    while line.verdicts.keys() < accepted and time.monotonic() - line.last_verdict_at < quiet_s:
        time.sleep(0.2)
    wait_until(lambda: accepted <= set(line.acted()), quiet_s)
    time.sleep(3.0)  # for acts that should not be
    scene.terminate(line.gate)
    return scene.dead_letters(amqp_url)


def test_no_job_is_lost_wrong_or_acted_on_twice_in_a_storm(
    servers_to_restart, archive, plant, texture_folder, tmp_path, results
):
    node, redis, redis_url, disk = servers_to_restart
    folder = copy_images(texture_folder, tmp_path / "images", JOBS, truncated=10, poison=2)
    started = time.monotonic()
    services = {"disk": disk, "archive": archive}
    with scene.set_up(plant, tmp_path / "plant", [node.url], redis_url, folder, rate=18, **services) as line:
        storm = Storm(line, SEED, node, redis, disk)
        faults = {"worker_kill": 18, "outside_kill": 6, "cut": 20, "delay": 3, "freeze": 2, "flood": 1}
        faults |= {"broker_restart": 3, "broker_alarm": 2, "disk_stall": 2, "redis_outage": 2}
        beside = {"archive_kill": 6, "archive_cut": 2, "database_crash": 2, "store_away": 3}
        with ThreadPoolExecutor(1) as threads:
            at_archive = threads.submit(storm.inject_beside, {kind: count * SCALE for kind, count in beside.items()})
            storm.inject(**{kind: count * SCALE for kind, count in faults.items()})
            at_archive.result()
        dead = finish(line, node.url)
        result = reconciliation.reconcile(line, storm, folder, dead, time.monotonic() - started)
    results["storm"] = result
    assert result.consistent, result
    assert result.accepted == JOBS
    assert result.archive_rows == JOBS
    assert result.archive_rejects > JOBS // 4
    assert storm.done["worker_kill"] >= 20


def test_a_cluster_that_loses_a_node_loses_no_job(plant, texture_folder, tmp_path, results):
    folder = copy_images(texture_folder, tmp_path / "images", CLUSTER_JOBS)
    started = time.monotonic()
    with private_servers.temporary_folder() as home:
        names, nodes = private_servers.cluster(home / "cluster", 3)
        redis, redis_url = private_servers.redis(home / "redis")
        urls = [node.url for node in nodes]
        with (
            private_servers.start_all([names, *(node.server for node in nodes), redis]),
            joined(nodes),
            scene.set_up(plant, tmp_path / "plant", urls, redis_url, folder, rate=15) as line,
        ):
            storm = Storm(line, SEED)
            while line.decided() < CLUSTER_JOBS // 10:
                time.sleep(0.1)
            storm.node_loss(nodes[0], nodes[1:])
            storm.restart_node(nodes[0], "node_return")
            nodes[1].server.stop()
            storm.restart_node(nodes[1], "node_restart")
            dead = finish(line, urls[2])
            result = reconciliation.reconcile(line, storm, folder, dead, time.monotonic() - started)
    results["cluster"] = result
    assert result.consistent, result
    assert result.accepted == CLUSTER_JOBS


def test_an_ack_before_the_publish_would_be_detected(servers_to_restart, plant, texture_folder, tmp_path):
    node, _, redis_url, _ = servers_to_restart
    folder = copy_images(texture_folder, tmp_path / "images", BROKEN_JOBS)
    with scene.set_up(plant, tmp_path / "plant", [node.url], redis_url, folder, rate=20, broken="ack_first") as line:
        storm = Storm(line, SEED)
        for _ in range(3):
            point = line.failpoints / "publish"
            point.touch()
            while point.exists():
                time.sleep(0.05)
        result = reconciliation.reconcile(line, storm, folder, finish(line, node.url, quiet_s=8.0), 0)
    assert result.lost > 0, result
    assert not result.consistent


def test_a_publisher_without_its_spool_would_be_detected(servers_to_restart, plant, texture_folder, tmp_path):
    node, redis, redis_url, _ = servers_to_restart
    folder = copy_images(texture_folder, tmp_path / "images", BROKEN_JOBS)
    with scene.set_up(plant, tmp_path / "plant", [node.url], redis_url, folder, rate=20, broken="no_spool") as line:
        storm = Storm(line, SEED, node, redis)
        while line.decided() < 10:
            time.sleep(0.1)
        storm.inject(broker_restart=1)
        result = reconciliation.reconcile(line, storm, folder, finish(line, node.url, quiet_s=8.0), 0)
    assert result.lost > 0, result
    assert not result.consistent
