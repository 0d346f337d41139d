"""A publisher that is killed, and a broker that is away: nothing that was said to be accepted is lost."""

import signal
import time
import urllib.parse

import pytest

from patchline.protocol import topology
from patchline.services import server
from tests.proxy import Proxy
from tests.system.conftest import records, wait_for

pytestmark = pytest.mark.timeout(180)


def test_images_taken_while_the_broker_is_away_arrive_in_order_when_it_is_back(line, texture_folder, servers):
    url = urllib.parse.urlsplit(servers.amqp_url)
    (port,) = server.free_ports(1)
    away = f"amqp://{url.username}:{url.password}@127.0.0.1:{port}"
    folder = texture_folder / "test" / "good"
    arguments = ("publish", "--line", "l1", "--category", "brick", str(folder))
    publisher = line.start(*arguments, PATCHLINE_AMQP_URL=away)
    spooled = [records(publisher.stdout.readline())[0] for _ in range(8)]
    assert {record["state"] for record in spooled} == {"spooled"}
    proxy = Proxy(url.port, port)
    rest, _ = publisher.communicate(timeout=60)
    proxy.close()
    assert [record["job_id"] for record in records(rest)] == [record["job_id"] for record in spooled]
    assert {record["state"] for record in records(rest)} == {"confirmed"}
    arrived = [each.message_id for each in line.messages(topology.JOBS, 8)]
    assert arrived == [record["job_id"] for record in spooled]


def test_a_publisher_killed_at_any_moment_loses_nothing_that_it_said_it_has(line, texture_folder, servers):
    url = urllib.parse.urlsplit(servers.amqp_url)
    proxy = Proxy(url.port)
    behind = f"amqp://{url.username}:{url.password}@127.0.0.1:{proxy.port}"
    arguments = ("publish", "--line", "l2", "--category", "brick", "--rate", "30", str(texture_folder))
    said = set()
    for moment in (0.9, 1.2, 1.5):
        publisher = line.start(*arguments, PATCHLINE_AMQP_URL=behind)
        time.sleep(moment)
        proxy.cut()
        publisher.send_signal(signal.SIGKILL)
        out, _ = publisher.communicate()
        said |= {record["job_id"] for record in records(out.rsplit("\n", 1)[0])}
    final = line.start(*arguments)
    out, _ = final.communicate(timeout=60)
    said |= {record["job_id"] for record in records(out)}
    proxy.close()
    arrived = {each.message_id for each in line.messages(topology.JOBS, 500, timeout_s=3)}
    assert said
    assert said <= arrived


def test_the_second_start_goes_on_with_what_the_first_left(line, texture_folder):
    (port,) = server.free_ports(1)
    image = str(sorted((texture_folder / "test" / "good").iterdir())[0])
    first = line.start(
        "publish", "--line", "l1", "--category", "brick", image, PATCHLINE_AMQP_URL=f"amqp://127.0.0.1:{port}"
    )
    (record,) = records(first.stdout.readline())
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 0
    other = str(sorted((texture_folder / "test" / "good").iterdir())[1])
    second = line.run("publish", "--line", "l1", "--category", "brick", other)
    assert record["job_id"] in {each["job_id"] for each in records(second.out)}
    wait_for(lambda: len(line.messages(topology.JOBS, 2)) == 2)
