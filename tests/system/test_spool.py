"""A killed publisher and an unreachable broker: no accepted image is lost."""

import signal
import time
import urllib.parse

import pytest

from patchline.services import server
from tests.proxy import Proxy
from tests.queues import JOBS_QUEUE
from tests.system.conftest import records, wait_for

pytestmark = pytest.mark.timeout(180)


def test_images_accepted_without_a_broker_arrive_in_order_when_it_is_back(line, texture_folder, servers):
    url = urllib.parse.urlsplit(servers.amqp_url)
    (port,) = server.free_ports(1)
    proxy_url = f"amqp://{url.username}:{url.password}@127.0.0.1:{port}"
    folder = texture_folder / "test" / "good"
    arguments = ("publish", "--line", "l1", "--category", "brick", str(folder))
    publisher = line.start(*arguments, PATCHLINE_AMQP_URL=proxy_url)
    spooled = [records(publisher.stdout.readline())[0] for _ in range(8)]
    assert {record["state"] for record in spooled} == {"spooled"}
    proxy = Proxy(url.port, port)
    out, _ = publisher.communicate(timeout=60)
    proxy.close()
    assert [record["job_id"] for record in records(out)] == [record["job_id"] for record in spooled]
    assert {record["state"] for record in records(out)} == {"confirmed"}
    arrived = [message.message_id for message in line.messages(JOBS_QUEUE, 8)]
    assert arrived == [record["job_id"] for record in spooled]


def test_a_killed_publisher_loses_no_accepted_image(line, texture_folder, servers):
    url = urllib.parse.urlsplit(servers.amqp_url)
    proxy = Proxy(url.port)
    proxy_url = f"amqp://{url.username}:{url.password}@127.0.0.1:{proxy.port}"
    arguments = ("publish", "--line", "l2", "--category", "brick", "--rate", "30", str(texture_folder))
    accepted = set()
    for delay_s in (0.9, 1.2, 1.5):
        publisher = line.start(*arguments, PATCHLINE_AMQP_URL=proxy_url)
        time.sleep(delay_s)
        proxy.cut()
        publisher.send_signal(signal.SIGKILL)
        out, _ = publisher.communicate()
        accepted |= {record["job_id"] for record in records(out.rsplit("\n", 1)[0])}
    final = line.start(*arguments)
    out, _ = final.communicate(timeout=60)
    accepted |= {record["job_id"] for record in records(out)}
    proxy.close()
    arrived = {message.message_id for message in line.messages(JOBS_QUEUE, 500, timeout_s=3)}
    assert accepted
    assert accepted <= arrived


def test_a_restarted_publisher_sends_what_the_first_left_in_the_spool(line, texture_folder):
    (port,) = server.free_ports(1)
    images = [str(path) for path in sorted((texture_folder / "test" / "good").iterdir())]
    first = line.start(
        "publish", "--line", "l1", "--category", "brick", images[0], PATCHLINE_AMQP_URL=f"amqp://127.0.0.1:{port}"
    )
    (record,) = records(first.stdout.readline())
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 0
    second = line.run("publish", "--line", "l1", "--category", "brick", images[1])
    assert record["job_id"] in {state["job_id"] for state in records(second.out)}
    wait_for(lambda: len(line.messages(JOBS_QUEUE, 2)) == 2)
