"""On a full disk the publisher waits and loses no image, the gate acts on every part, and the archive waits."""

import os
import sqlite3
import subprocess
import urllib.parse
from contextlib import closing

import pytest

from patchline import config
from patchline.gate.instance import default_name
from patchline.protocol import topology
from patchline.services import server
from tests.archive_contract import message
from tests.picture_contract import picture
from tests.proxy import Proxy
from tests.queues import JOBS_QUEUE
from tests.system.conftest import records, wait_for

pytestmark = pytest.mark.timeout(120)
DISK_BYTES, MIN_FREE_BYTES, IMAGE_BYTES = 24_000_000, 8_000_000, 100_000


@pytest.fixture
def small_disk(tmp_path):
    """A separate file system of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder], check=False)
    if mounted.returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def line_on_small_disk(line, tmp_path, small_disk):
    """The line, with its spool and gate memory on the small disk."""
    paths = line.settings.paths.model_copy(update={"spool": small_disk / "spool", "gate": small_disk / "gate"})
    publisher = line.settings.publisher.model_copy(update={"spool_min_free_bytes": MIN_FREE_BYTES})
    config.save(line.settings.model_copy(update={"paths": paths, "publisher": publisher}), tmp_path / "config.yaml")
    line.folder = tmp_path
    return line


def fill(folder):
    """Fill the disk to the last byte. Return the file that fills it."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == 28  # noqa: PT017 - no space left
    return folder / "filler"


def test_a_publisher_waits_on_a_full_disk_and_loses_no_image(line_on_small_disk, small_disk, tmp_path, servers):
    line, url = line_on_small_disk, urllib.parse.urlsplit(servers.amqp_url)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(200):
        (images / f"{number:03}.png").write_bytes(os.urandom(IMAGE_BYTES))
    (port,) = server.free_ports(1)
    proxy_url = f"amqp://{url.username}:{url.password}@127.0.0.1:{port}"
    publisher = line.start("publish", "--line", "l1", "--category", "brick", str(images), PATCHLINE_AMQP_URL=proxy_url)
    while "image neither confirmed nor spooled" not in (logged := publisher.stderr.readline()):
        assert logged
    assert "spool_min_free_bytes is 8000000" in logged
    filler = fill(small_disk)
    proxy = Proxy(url.port, port)
    arrived = {message.message_id for message in line.messages(JOBS_QUEUE, 1)}
    assert publisher.poll() is None
    filler.unlink()
    out, _ = publisher.communicate(timeout=60)
    proxy.close()
    confirmed = {state["job_id"] for state in records(out) if state["state"] == "confirmed"}
    assert publisher.returncode == 0
    assert len(confirmed) == 200
    assert confirmed >= {state["job_id"] for state in records(out)}

    def all_have_arrived():
        arrived.update(message.message_id for message in line.messages(JOBS_QUEUE, 500, timeout_s=0.2))
        return confirmed <= arrived

    wait_for(all_have_arrived)


def test_a_gate_acts_while_its_disk_is_full(line_on_small_disk, small_disk):
    line = line_on_small_disk
    gate = line.start("gate", "--line", "l1", "--dry-run")
    wait_for((small_disk / "gate" / f"l1.{default_name()}.sqlite").exists)
    fill(small_disk)
    for number in range(300):
        line.publish_part_and_verdict(f"j{number}")
    actions = [records(gate.stdout.readline())[0] for _ in range(300)]
    assert [action["job_id"] for action in actions] == [f"j{number}" for number in range(300)]
    assert {action["action"] for action in actions} == {"accept"}
    gate.terminate()
    _, log = gate.communicate(timeout=20)
    assert gate.returncode == 0
    assert 1 <= log.count("a restart would forget parts") < 30


def test_an_archive_on_a_full_disk_waits_says_so_and_loses_nothing(line_on_small_disk, small_disk):
    line = line_on_small_disk
    paths = line.settings.paths.model_copy(update={"archive": small_disk / "archive"})
    rules = config.Archive(batch=20, batch_ms=20, pictures=config.Pictures(decisions=("fail",), min_free_bytes=0))
    line.settings = line.settings.model_copy(update={"paths": paths, "archive": rules})
    config.save(line.settings, line.folder / "config.yaml")
    (small_disk / "archive").mkdir()
    filler = fill(small_disk)
    (port,) = server.free_ports(1)
    archive = line.start("archive", "--metrics-port", str(port))

    def is_ready():
        return server.responds(f"http://127.0.0.1:{port}/readyz")

    def publish(numbers):
        for number in numbers:
            body = os.urandom(IMAGE_BYTES)
            line.broker.publish(topology.VERDICTS, "l1.brick.fail", message(f"job-{number}"))
            line.broker.publish(topology.PICTURES, "l1.brick.fail", picture(f"job-{number}", body=body))

    def stored():
        with closing(sqlite3.connect(small_disk / "archive" / "archive.sqlite", timeout=10)) as connection:
            tables = ("verdicts", "pictures")
            return [connection.execute(f"SELECT count(DISTINCT job_id) FROM {table}").fetchone()[0] for table in tables]

    wait_for(lambda: server.is_listening(port))
    publish(range(20))
    assert not is_ready()
    filler.unlink()
    wait_for(is_ready)
    wait_for(lambda: stored() == [20, 20])
    filler = fill(small_disk)
    publish(range(20, 60))
    wait_for(lambda: not is_ready())
    filler.unlink()
    wait_for(is_ready)
    wait_for(lambda: stored() == [60, 60])
    archive.terminate()
    _, log = archive.communicate(timeout=30)
    assert archive.returncode == 0
    assert "Traceback" not in log
