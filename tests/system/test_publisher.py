"""The publisher with real servers: images that are too large, long alarms, taken ports, changed passwords, cameras."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pika
import pytest

from patchline import config
from patchline.broker.base import BrokerError
from patchline.broker.rabbitmq import RabbitBroker
from patchline.gate.instance import default_name
from patchline.protocol import topology
from patchline.publisher import Client
from patchline.services import private_servers, server
from tests.queues import BACKLOG_QUEUE, JOBS_QUEUE
from tests.system.conftest import HEARTBEAT_S, line_with_short_timeouts, records, wait_for

pytestmark = pytest.mark.timeout(180)
MAX_MESSAGE_SIZE = 1_000_000
PUBLISH = ("publish", "--line", "l1", "--category", "brick")


@pytest.fixture(scope="module")
def node():
    """A RabbitMQ that takes no large messages."""
    with private_servers.temporary_folder() as home:
        node = private_servers.rabbitmq(home / "rabbitmq", f"max_message_size = {MAX_MESSAGE_SIZE}\n")
        with private_servers.start_all([node.server]):
            yield node


@pytest.fixture
def line(node, servers, plant, tmp_path):
    with line_with_short_timeouts(plant, tmp_path, node.url, servers.redis_url) as line:
        with closing(pika.BlockingConnection(pika.URLParameters(node.url))) as connection:
            for queue in (JOBS_QUEUE, topology.gate_queue("l1", default_name())):
                connection.channel().queue_purge(queue)
        yield line


@contextmanager
def alarm(node):
    """Let RabbitMQ block its publishers until the block ends, as if it had no memory left."""
    private_servers.rabbitmqctl(node, "set_vm_memory_high_watermark", "0.0001")
    try:
        yield
    finally:
        private_servers.rabbitmqctl(node, "set_vm_memory_high_watermark", "0.4")


def write_images(folder, sizes):
    """Write files that look like images, of these sizes in bytes. Return their paths."""
    folder.mkdir()
    paths = []
    for number, size in enumerate(sizes):
        paths.append(folder / f"part-{number:02}.png")
        paths[-1].write_bytes(os.urandom(size))
    return [str(path) for path in paths]


def test_an_image_that_rabbitmq_does_not_take_is_refused_and_its_part_rejected_and_the_others_go_on(line, tmp_path):
    sizes = [5_000] * 4 + [2 * MAX_MESSAGE_SIZE] + [5_000] * 4
    gate = line.start("gate", "--line", "l1", "--dry-run")
    published = line.run(*PUBLISH, "--deadline-ms", "4000", *write_images(tmp_path / "images", sizes))
    assert published.returncode == 0, published.err
    states = {state["part_id"]: state for state in records(published.out)}
    refused = states.pop("part-04")
    assert refused["state"] == "refused"
    assert f"has {2 * MAX_MESSAGE_SIZE} bytes, and the broker takes {MAX_MESSAGE_SIZE}" in refused["reason"]
    assert {state["state"] for state in states.values()} == {"confirmed"}
    arrived = set()
    while arrived != set(states):  # some arrive twice: the refusal closed their channel before they were confirmed
        (message,) = line.messages(JOBS_QUEUE, 1)
        arrived.add(message.headers["part_id"])
    actions = [records(gate.stdout.readline())[0] for _ in sizes]
    assert {action["part_id"]: action["action"] for action in actions} == dict.fromkeys([*states, "part-04"], "reject")


def test_an_image_that_no_worker_takes_is_refused_without_rabbitmq(line, tmp_path):
    images = write_images(tmp_path / "images", [100, line.settings.images.max_bytes + 1])
    published = line.run(*PUBLISH, *images)
    assert [state["state"] for state in records(published.out)] == ["confirmed", "refused"]
    assert "images.max_bytes is 16000000" in records(published.out)[1]["reason"]
    assert "image refused" in published.err
    announced = [message.headers["part_id"] for message in line.messages(topology.gate_queue("l1", default_name()), 2)]
    assert announced == ["part-00", "part-01"]


def test_the_doctor_finds_out_that_rabbitmq_takes_smaller_images_than_the_workers(line):
    report = line.run("doctor")
    assert report.returncode == 1, report.err
    text = " ".join(report.out.replace("│", " ").split())  # without the borders of the table
    assert "refuses images of images.max_bytes: the message has 16000000 bytes, and the broker takes 1000000" in text
    assert "raise max_message_size in rabbitmq.conf, or lower images.max_bytes" in text


def test_a_long_alarm_ends_with_one_copy_of_every_image(line, node, tmp_path):
    images = write_images(tmp_path / "images", [50_000] * 20)
    with alarm(node):
        publisher = line.start(*PUBLISH, *images)
        spooled = [records(publisher.stdout.readline())[0] for _ in images]
        assert {state["state"] for state in spooled} == {"spooled"}
        time.sleep(4 * HEARTBEAT_S)  # many times the confirm timeout
    out, _ = publisher.communicate(timeout=60)
    assert [(state["part_id"], state["state"]) for state in records(out)] == [
        (state["part_id"], "confirmed") for state in spooled
    ]
    arrived = [message.headers["part_id"] for message in line.all_messages(JOBS_QUEUE, 20)]
    assert arrived == [state["part_id"] for state in spooled]


def test_a_publisher_that_is_told_to_end_in_an_alarm_keeps_every_image_that_it_took(line, node, tmp_path):
    images = write_images(tmp_path / "images", [50_000] * 20)
    with alarm(node):
        publisher = line.start(*PUBLISH, *images)
        first = records(publisher.stdout.readline())
        publisher.send_signal(signal.SIGTERM)
        out, log = publisher.communicate(timeout=30)
        assert publisher.returncode == 0, log
        states = first + records(out)
        assert {state["state"] for state in states} == {"spooled"}
    again = line.run(*PUBLISH, images[0])
    assert {state["part_id"] for state in records(again.out) if state["state"] == "confirmed"} >= {
        state["part_id"] for state in states
    }


def test_parts_of_an_hour_ago_are_not_announced_and_fresh_ones_are_announced_past_the_spool(line, tmp_path):
    (port,) = server.free_ports(1)
    images = write_images(tmp_path / "images", [5_000] * 3)
    away = {"PATCHLINE_AMQP_URL": f"amqp://127.0.0.1:{port}"}
    first = line.start(*PUBLISH, "--deadline-ms", "1", *images[:2], **away)
    assert {records(first.stdout.readline())[0]["state"] for _ in range(2)} == {"spooled"}
    first.terminate()
    assert first.wait(20) == 0
    second = line.run(*PUBLISH, images[2])
    assert second.returncode == 0, second.err
    arrived = [message.headers["part_id"] for message in line.all_messages(BACKLOG_QUEUE, 2)]
    assert arrived == ["part-00", "part-01"]
    assert [message.headers["part_id"] for message in line.messages(JOBS_QUEUE, 1)] == ["part-02"]
    announced = line.all_messages(topology.gate_queue("l1", default_name()), 1)
    assert {message.headers["part_id"] for message in announced} == {"part-02"}


def test_a_spool_of_late_images_leaves_room_for_fresh_images(line, tmp_path):
    limits = line.settings.publisher.model_copy(update={"late_per_s": 20.0})
    config.save(line.settings.model_copy(update={"publisher": limits}), line.folder / "config.yaml")
    (port,) = server.free_ports(1)
    late, fresh = write_images(tmp_path / "late", [5_000] * 80), write_images(tmp_path / "fresh", [6_000] * 10)
    away = {"PATCHLINE_AMQP_URL": f"amqp://127.0.0.1:{port}"}
    first = line.start(*PUBLISH, "--deadline-ms", "1", *late, **away)
    assert {records(first.stdout.readline())[0]["state"] for _ in late} == {"spooled"}
    first.terminate()
    assert first.wait(20) == 0
    second = line.start(*PUBLISH, "--rate", "5", *fresh)
    line.messages(BACKLOG_QUEUE, 1)
    started = time.monotonic()
    out, _ = second.communicate(timeout=60)
    assert time.monotonic() - started > 2.0, "20 a second"
    confirmed = [state["job_id"] for state in records(out) if state["state"] == "confirmed"]
    arrived_late = [message.message_id for message in line.messages(BACKLOG_QUEUE, 79)]
    arrived_fresh = [message.message_id for message in line.messages(JOBS_QUEUE, 10)]
    assert sorted(arrived_late + arrived_fresh) == sorted(confirmed[1:])
    # Those that come before the connection go behind the late ones on disk.
    assert confirmed.index(arrived_fresh[5]) < confirmed.index(arrived_late[-1]), "it does not wait for all late images"


@pytest.fixture
def taken_port():
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


def test_a_publisher_whose_metrics_port_is_taken_publishes_without_metrics(line, tmp_path, taken_port):
    images = write_images(tmp_path / "images", [100] * 3)
    published = line.run(*PUBLISH, "--metrics-port", str(taken_port), *images)
    assert published.returncode == 0, published.err
    assert [state["state"] for state in records(published.out)] == ["confirmed"] * 3
    (complaint,) = [line for line in published.err.splitlines() if "publishing without metrics" in line]
    assert f"127.0.0.1:{taken_port} (Address already in use)" in complaint
    assert "Traceback" not in published.err


def test_a_worker_whose_metrics_port_is_taken_ends_with_one_line(line, taken_port):
    worker = line.run("worker", "--device", "cpu", "--metrics-port", str(taken_port))
    assert worker.returncode == 2
    assert worker.err.splitlines()[-1].startswith(f"patchline: metrics cannot be served at 127.0.0.1:{taken_port}")
    assert "Traceback" not in worker.err


def test_a_publisher_serves_its_readiness(line, node, tmp_path):
    (port,) = server.free_ports(1)
    (tmp_path / "captured").mkdir()
    line.start(*PUBLISH, "--watch", str(tmp_path / "captured"), "--metrics-port", str(port))
    wait_for(lambda: server.responds(f"http://127.0.0.1:{port}/readyz"))
    assert server.responds(f"http://127.0.0.1:{port}/metrics")


@pytest.fixture
def url_file(line, node, tmp_path):
    """The file with the url of a user, whose password is changed by `set_password`."""
    file = tmp_path / "secret.url"

    def set_password(password, file_too=True):
        private_servers.rabbitmqctl(node, "change_password", "camera", password)
        if file_too:
            file.write_text(f"amqp://camera:{password}@127.0.0.1:{node.port}\n")

    private_servers.rabbitmqctl(node, "add_user", "camera", "never-used")
    private_servers.rabbitmqctl(node, "set_permissions", "camera", ".*", ".*", ".*")
    set_password("first-secret")
    line.environment.pop("PATCHLINE_AMQP_URL")
    yield file, set_password
    private_servers.rabbitmqctl(node, "delete_user", "camera")


def test_a_changed_password_is_picked_up_without_a_restart(line, node, tmp_path, url_file):
    file, set_password = url_file
    (port,) = server.free_ports(1)
    (tmp_path / "captured").mkdir()
    secret = {"PATCHLINE_AMQP_URL_FILE": str(file)}
    worker = line.worker("--device", "cpu", **secret)
    publisher = line.start(
        *PUBLISH, "--watch", str(tmp_path / "captured"), "--metrics-port", str(port), **secret
    )  # fmt: skip
    ready = [f"http://127.0.0.1:{number}/readyz" for number in (port, worker.metrics_port)]
    wait_for(lambda: all(map(server.responds, ready)))
    set_password("second-secret", file_too=False)
    private_servers.rabbitmqctl(node, "close_all_connections", "the password was changed")
    wait_for(lambda: not any(map(server.responds, ready)))
    for process in (worker, publisher):
        while "login refused by RabbitMQ" not in (logged := process.stderr.readline()):
            assert logged
            assert "secret" not in logged
        assert "camera" in logged
        assert "secret" not in logged
    assert not any(map(server.responds, ready))
    file.write_text(f"amqp://camera:second-secret@127.0.0.1:{node.port}\n")
    wait_for(lambda: all(map(server.responds, ready)))


def test_a_broker_names_the_refused_login_and_no_secret(node):
    with RabbitBroker(f"amqp://guest:wrong-secret@127.0.0.1:{node.port}") as broker:
        with pytest.raises(BrokerError, match=f"127.0.0.1:{node.port} refused the login; correct the user") as refused:
            broker.declare(topology.gate("l1", [default_name()]))
        assert "wrong-secret" not in str(refused.value)
        assert not broker.connected


def test_a_camera_sends_through_the_client_and_its_images_are_safe(line, node, tmp_path, monkeypatch):
    monkeypatch.setenv("PATCHLINE_AMQP_URL", node.url)
    states = []
    with Client.connect(line.folder / "config.yaml", "l1", "brick", lambda *change: states.append(change)) as client:
        sent = [client.send(b"\x89PNG\r\n\x1a\n%d" % number, f"part-{number}") for number in range(40)]
        receipts = [receipt.result(20) for receipt in sent]
    assert {receipt.state for receipt in receipts} == {"confirmed"}
    assert [state[0] for state in states] == [receipt.job_id for receipt in receipts]
    arrived = line.all_messages(JOBS_QUEUE, 40)
    assert [message.message_id for message in arrived] == [receipt.job_id for receipt in receipts]
    assert {message.content_type for message in arrived} == {"image/png"}


def test_a_client_without_rabbitmq_keeps_its_images_for_the_next_one(line, node, monkeypatch):
    (port,) = server.free_ports(1)
    monkeypatch.setenv("PATCHLINE_AMQP_URL", f"amqp://127.0.0.1:{port}")
    with Client.connect(line.folder / "config.yaml", "l1", "brick") as client:
        receipts = [client.send(b"pixels %d" % number, f"part-{number}") for number in range(5)]
    assert {receipt.result(0).state for receipt in receipts} == {"spooled"}
    monkeypatch.setenv("PATCHLINE_AMQP_URL", node.url)
    with Client.connect(line.folder / "config.yaml", "l1", "brick") as client:
        assert len(line.messages(JOBS_QUEUE, 5)) == 5


def test_a_publisher_goes_on_when_the_reader_of_its_output_ends(line, texture_folder):
    images = [str(path) for path in sorted((texture_folder / "test" / "good").iterdir())[:5]]
    publisher = line.start("publish", "--line", "l1", "--category", "brick", "--rate", "1", *images)
    records(publisher.stdout.readline())
    publisher.stdout.close()
    log = publisher.stderr.read()
    assert publisher.wait(60) == 0, log
    assert log.count("the reader of the output has ended") == 1
    assert "Traceback" not in log
    assert len(line.messages(JOBS_QUEUE, 5)) == 5


@pytest.mark.parametrize(
    ("setup", "shown"),
    [
        ("", ""),
        (
            "import logging; logging.basicConfig()",
            "WARNING:patchline.broker.rabbitmq:connection to RabbitMQ lost",
        ),
        (
            "import structlog, sys; structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))",
            "connection to RabbitMQ lost",
        ),
    ],
    ids=["nothing", "logging", "structlog"],
)
def test_a_client_leaves_its_log_to_the_program_that_embeds_it(line, tmp_path, setup, shown):
    (port,) = server.free_ports(1)
    script = f"""{setup}
from patchline.publisher import Client
with Client.connect({str(line.folder / "config.yaml")!r}, "l1", "brick") as client:
    print(client.send(b"pixels", "part-1").result().state)
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PATCHLINE_AMQP_URL": f"amqp://127.0.0.1:{port}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout) == (0, "spooled\n"), result.stderr
    assert shown in result.stderr
    assert bool(shown) == bool(result.stderr)


def test_the_example_of_the_documentation_runs(line, node, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", Path("docs/client.md").read_text(), re.DOTALL)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\npixels")
    script = code.replace("/etc/patchline/config.yaml", str(line.folder / "config.yaml"))
    script = script.replace("press-3", "l1").replace("gasket", "brick")
    environment = os.environ | {"PATCHLINE_AMQP_URL": node.url}
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert "confirmed" in result.stdout
    assert len(line.messages(JOBS_QUEUE, 1)) == 1
