"""A disk that takes long to write through, as a memory card or a shared one does: nothing waits, nothing is lost."""

import os
import time
import urllib.parse

import pytest

from patchline.protocol.messages import Decision
from patchline.services import private_servers, server
from tests.proxy import Proxy
from tests.slow_disk import SlowDisk
from tests.system.conftest import HEARTBEAT_S, impatient, records, wait_for

pytestmark = pytest.mark.timeout(180)
FOR_EVER_S = 3600
LONG_S = 4 * HEARTBEAT_S
JOBS = 30


@pytest.fixture
def slow_disk(tmp_path):
    return SlowDisk(tmp_path)


def test_a_gate_acts_while_its_disk_hangs_and_remembers_it_all_when_that_is_over(line, slow_disk):
    gate = line.start("gate", "--line", "l1", **slow_disk.environment)
    wait_for((line.settings.paths.gate / "l1.sqlite").exists)
    line.announce_and_decide("before")
    gate.stdout.readline()
    slow_disk.takes(FOR_EVER_S)
    jobs = [f"j{number}" for number in range(400)]  # enough for SQLite to want a sync
    for job_id in jobs:
        line.announce_and_decide(job_id)
    actions = [records(gate.stdout.readline())[0] for _ in jobs]
    assert [(each["job_id"], each["action"]) for each in actions] == [(job_id, "accept") for job_id in jobs]
    slow_disk.takes(0)
    gate.terminate()
    gate.communicate(timeout=20)
    assert gate.returncode == 0
    again = line.start("gate", "--line", "l1")
    line.announce_and_decide(jobs[0], Decision.FAIL)
    line.announce_and_decide("after")
    assert records(again.stdout.readline())[0]["job_id"] == "after"


def test_a_spool_on_a_slow_disk_is_emptied_while_images_come(line, slow_disk, tmp_path, servers):
    url = urllib.parse.urlsplit(servers.amqp_url)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(100):
        (images / f"{number:03}.png").write_bytes(os.urandom(1000))
    (port,) = server.free_ports(1)
    away = {"PATCHLINE_AMQP_URL": f"amqp://{url.username}:{url.password}@127.0.0.1:{port}"}
    publisher = line.start(
        "publish", "--line", "l1", "--category", "brick", str(images), **away, **slow_disk.environment
    )
    spooled = [records(publisher.stdout.readline())[0] for _ in range(100)]
    slow_disk.takes(1)
    proxy = Proxy(url.port, port)
    rest, _ = publisher.communicate(timeout=60)  # with a sync for each it would take 100 s
    proxy.close()
    assert publisher.returncode == 0
    assert [(each["state"], each["job_id"]) for each in records(rest)] == [
        ("confirmed", each["job_id"]) for each in spooled
    ]


@pytest.fixture
def line_on_slow_broker(slow_disk, plant, servers, tmp_path):
    with private_servers.temporary_folder() as home:
        node = private_servers.rabbitmq(home / "rabbitmq")
        with (
            private_servers.start_all([slow_disk.under(node.server)]),
            impatient(plant, tmp_path, node.url, servers.redis_url) as line,
        ):
            yield line


def test_a_broker_whose_disk_hangs_for_a_while_loses_nothing_and_suspects_nobody(
    line_on_slow_broker, slow_disk, texture_folder
):
    line, images = line_on_slow_broker, sorted((texture_folder / "test" / "good").iterdir())
    jobs = line.send_many(images, JOBS)
    worker = line.worker("--device", "cpu")
    slow_disk.takes(FOR_EVER_S)
    publisher = line.start("publish", "--line", "l1", "--category", "brick", *map(str, images))
    told = [records(publisher.stdout.readline())[0] for _ in images]
    assert {each["state"] for each in told} == {"spooled"}
    time.sleep(LONG_S)
    slow_disk.takes(0)
    line.require_first_attempts(jobs | {each["job_id"] for each in told}, worker)
    assert publisher.wait(20) == 0
