"""An alarm: where memory or disk runs short, RabbitMQ reads nothing more from whoever publishes."""

import pytest

from patchline.services import private_servers
from tests.system.conftest import HEARTBEAT_S, impatient, records

pytestmark = pytest.mark.timeout(120)
LONG_S = 4 * HEARTBEAT_S
JOBS = 30


@pytest.fixture
def node():
    with private_servers.temporary_folder() as home:
        node = private_servers.rabbitmq(home / "rabbitmq")
        with private_servers.start_all([node.server]):
            yield node


@pytest.fixture
def line(node, servers, plant, tmp_path):
    with impatient(plant, tmp_path, node.url, servers.redis_url) as line:
        yield line


def test_a_long_alarm_loses_nothing_and_suspects_nobody(line, node, texture_folder):
    images = sorted((texture_folder / "test" / "good").iterdir())
    jobs = line.send_many(images, JOBS)
    private_servers.rabbitmqctl(node, "set_vm_memory_high_watermark", "0.0001")
    worker = line.worker("--device", "cpu")
    publisher = line.start("publish", "--line", "l1", "--category", "brick", *map(str, images))
    told = [records(publisher.stdout.readline())[0] for _ in images]
    assert {each["state"] for each in told} == {"spooled"}
    assert line.verdicts(1, timeout_s=LONG_S) == []
    private_servers.rabbitmqctl(node, "set_vm_memory_high_watermark", "0.4")
    line.require_first_attempts(jobs | {each["job_id"] for each in told}, worker)
    assert publisher.wait(20) == 0
    worker.terminate()
    assert worker.communicate(timeout=20)[1].count("broker reads nothing from us") == 1
