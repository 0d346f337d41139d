"""A killed publisher and an unreachable broker: no accepted image is lost."""

import contextlib
import signal
import sqlite3
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from patchline.services import server
from tests.proxy import Proxy
from tests.queues import JOBS_QUEUE
from tests.system.conftest import records, wait_for

pytestmark = pytest.mark.timeout(180)
CLOCK = Path(__file__).parents[1] / "chaos" / "clock"


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
    assert accepted
    arrived = set()

    def all_have_arrived():
        arrived.update(message.message_id for message in line.messages(JOBS_QUEUE, 500, timeout_s=0.2))
        return accepted <= arrived

    wait_for(all_have_arrived)


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


def spool_without_a_broker(line, texture_folder, count, name="l1", **environment):
    """Spool images. Return their job ids and the file."""
    (port,) = server.free_ports(1)
    images = [str(path) for path in sorted((texture_folder / "test" / "good").iterdir())[:count]]
    environment["PATCHLINE_AMQP_URL"] = f"amqp://127.0.0.1:{port}"
    publisher = line.start("publish", "--line", name, "--category", "brick", *images, **environment)
    job_ids = [records(publisher.stdout.readline())[0]["job_id"] for _ in range(count)]
    publisher.send_signal(signal.SIGTERM)
    assert publisher.wait(20) == 0
    return job_ids, line.settings.paths.spool / f"{name}.brick.sqlite"


def test_images_are_sent_after_the_clock_was_corrected_by_days(line, texture_folder):
    behind = {"PYTHONPATH": f"{CLOCK}:{Path.cwd()}", "PATCHLINE_CLOCK_S": str(-2 * 86_400)}
    job_ids, _ = spool_without_a_broker(line, texture_folder, 3, **behind)
    last = str(sorted((texture_folder / "test" / "good").iterdir())[3])
    out = records(line.run("publish", "--line", "l1", "--category", "brick", last).out)
    assert {record["job_id"]: record["state"] for record in out}.items() >= dict.fromkeys(job_ids, "confirmed").items()


def test_an_image_that_is_damaged_in_the_spool_is_refused_and_the_others_are_sent(line, texture_folder, tmp_path):
    job_ids, spool = spool_without_a_broker(line, texture_folder, 5)
    with contextlib.closing(sqlite3.connect(spool)) as sqlite:
        query = "SELECT substr(image, length(image) / 2, 64) FROM entries WHERE number = 2"
        (middle,) = sqlite.execute(query).fetchone()
    data = spool.read_bytes()
    page = data.index(middle) // 4096 * 4096
    spool.write_bytes(data[:page] + b"\xa5" * 4096 + data[page + 4096 :])
    (port,) = server.free_ports(1)
    publisher = line.start(
        "publish", "--line", "l1", "--category", "brick", "--watch", str(tmp_path), "--metrics-port", str(port)
    )
    states = {}
    while len(states) < 5:
        (record,) = records(publisher.stdout.readline())
        states[record["job_id"]] = (record["state"], record.get("reason"))
    refused = ("refused", "the image was damaged in the spool")
    assert states == dict.fromkeys(job_ids, ("confirmed", None)) | {job_ids[1]: refused}
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        assert b'patchline_damaged_files{line="l1"} 1.0' in response.read()
    publisher.send_signal(signal.SIGTERM)
    _, log = publisher.communicate(timeout=20)
    assert log.count("damaged file set aside") == 1
    assert "Traceback" not in log


def test_a_damaged_spool_of_two_publishers_ends_one_with_a_line_that_says_what_to_do(line, texture_folder, tmp_path):
    _, spool = spool_without_a_broker(line, texture_folder, 2, "l2")
    (port,) = server.free_ports(1)
    arguments = ("publish", "--line", "l2", "--category", "brick")
    other = line.start(*arguments, "--watch", str(tmp_path), PATCHLINE_AMQP_URL=f"amqp://127.0.0.1:{port}")
    wait_for(lambda: list(spool.parent.glob("l2.*.taken")))
    with contextlib.closing(sqlite3.connect(spool, timeout=20)) as sqlite, sqlite:
        sqlite.execute("UPDATE entries SET job = 'x'")
    image = str(next((texture_folder / "test" / "good").iterdir()))
    publisher = line.run(*arguments, image)
    assert publisher.returncode == 78
    assert "is damaged (the job of entry 1 cannot be read), and another process uses it" in publisher.err
    assert "Traceback" not in publisher.err
    assert other.poll() is None
