"""On a disk with slow syncs, such as a memory card, no part waits and nothing is lost."""

import os
import time
import urllib.parse

import pytest

from patchline.gate.instance import default_name
from patchline.protocol.messages import Decision
from patchline.services import private_servers, server
from tests.proxy import Proxy
from tests.slow_disk import SlowDisk
from tests.system.conftest import HEARTBEAT_S, line_with_short_timeouts, records, wait_for

pytestmark = pytest.mark.timeout(180)
VERY_LONG_S = 3600
LONG_S = 4 * HEARTBEAT_S
JOBS = 30


@pytest.fixture
def slow_disk(tmp_path):
    return SlowDisk(tmp_path)


def test_a_gate_acts_while_its_disk_hangs_and_saves_its_actions_afterwards(line, slow_disk):
    gate = line.start("gate", "--line", "l1", "--dry-run", **slow_disk.environment)
    wait_for((line.settings.paths.gate / f"l1.{default_name()}.sqlite").exists)
    line.publish_part_and_verdict("before")
    gate.stdout.readline()
    slow_disk.set_delay(VERY_LONG_S)
    jobs = [f"j{number}" for number in range(400)]  # enough for SQLite to sync
    for job_id in jobs:
        line.publish_part_and_verdict(job_id)
    actions = [records(gate.stdout.readline())[0] for _ in jobs]
    assert [(action["job_id"], action["action"]) for action in actions] == [(job_id, "accept") for job_id in jobs]
    slow_disk.set_delay(0)
    gate.terminate()
    gate.communicate(timeout=20)
    assert gate.returncode == 0
    again = line.start("gate", "--line", "l1", "--dry-run")
    line.publish_part_and_verdict(jobs[0], Decision.FAIL)
    line.publish_part_and_verdict("after")
    assert records(again.stdout.readline())[0]["job_id"] == "after"


def test_a_spool_on_a_slow_disk_is_drained_in_time(line, slow_disk, tmp_path, servers):
    url = urllib.parse.urlsplit(servers.amqp_url)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(100):
        (images / f"{number:03}.png").write_bytes(os.urandom(1000))
    (port,) = server.free_ports(1)
    behind_proxy = {"PATCHLINE_AMQP_URL": f"amqp://{url.username}:{url.password}@127.0.0.1:{port}"}
    publisher = line.start(
        "publish", "--line", "l1", "--category", "brick", str(images), **behind_proxy, **slow_disk.environment
    )
    spooled = [records(publisher.stdout.readline())[0] for _ in range(100)]
    slow_disk.set_delay(1)
    proxy = Proxy(url.port, port)
    out, _ = publisher.communicate(timeout=60)  # with a sync per entry it would take 100 s
    proxy.close()
    assert publisher.returncode == 0
    assert [(state["state"], state["job_id"]) for state in records(out)] == [
        ("confirmed", state["job_id"]) for state in spooled
    ]


@pytest.fixture
def line_on_slow_broker(slow_disk, plant, servers, tmp_path):
    with private_servers.temporary_folder() as home:
        node = private_servers.rabbitmq(home / "rabbitmq")
        with (
            private_servers.start_all([slow_disk.attach_to(node.server)]),
            line_with_short_timeouts(plant, tmp_path, node.url, servers.redis_url) as line,
        ):
            yield line


def test_a_hanging_broker_disk_loses_no_job_and_makes_no_suspects(line_on_slow_broker, slow_disk, texture_folder):
    line, images = line_on_slow_broker, sorted((texture_folder / "test" / "good").iterdir())
    jobs = line.send_many(images, JOBS)
    worker = line.worker("--device", "cpu")
    slow_disk.set_delay(VERY_LONG_S)
    publisher = line.start("publish", "--line", "l1", "--category", "brick", *map(str, images))
    states = [records(publisher.stdout.readline())[0] for _ in images]
    assert {state["state"] for state in states} == {"spooled"}
    time.sleep(LONG_S)
    slow_disk.set_delay(0)
    line.assert_judged_at_first_attempt(jobs | {state["job_id"] for state in states}, worker)
    assert publisher.wait(20) == 0
