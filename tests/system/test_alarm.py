"""A memory or disk alarm of RabbitMQ blocks every connection that publishes."""

import pytest

from patchline.services import private_servers
from tests.system.conftest import HEARTBEAT_S, line_with_short_timeouts, records

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
    with line_with_short_timeouts(plant, tmp_path, node.url, servers.redis_url) as line:
        yield line


def test_a_long_alarm_loses_no_job_repeats_no_verdict_and_makes_no_suspects(line, node, texture_folder):
    images = sorted((texture_folder / "test" / "good").iterdir())
    jobs = line.send_many(images, JOBS)
    private_servers.rabbitmqctl(node, "set_vm_memory_high_watermark", "0.0001")
    worker = line.worker("--device", "cpu")
    publisher = line.start("publish", "--line", "l1", "--category", "brick", *map(str, images))
    states = [records(publisher.stdout.readline())[0] for _ in images]
    assert {state["state"] for state in states} == {"spooled"}
    assert line.verdicts(1, timeout_s=LONG_S) == []
    private_servers.rabbitmqctl(node, "set_vm_memory_high_watermark", "0.4")
    jobs |= {state["job_id"] for state in states}
    verdicts = line.assert_judged_at_first_attempt(jobs, worker)
    assert len(verdicts) == len(jobs)
    assert line.verdicts(1, timeout_s=1.0) == []
    assert publisher.wait(20) == 0
    worker.terminate()
    assert worker.communicate(timeout=20)[1].count("connection blocked until RabbitMQ") == 1
