"""A disk that is full: a publisher waits and loses nothing, a gate goes on acting."""

import os
import subprocess
import urllib.parse

import pytest

from patchline import config
from patchline.protocol import topology
from patchline.services import server
from tests.proxy import Proxy
from tests.system.conftest import records, wait_for

pytestmark = pytest.mark.timeout(120)
DISK, LEFT_FREE, IMAGE = 24_000_000, 8_000_000, 100_000


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], check=False)
    if mounted.returncode != 0:
        pytest.skip("to mount a small disk takes root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def on_small_disk(line, tmp_path, small_disk):
    """The line, with its spool and gate memory there."""
    paths = line.settings.paths.model_copy(update={"spool": small_disk / "spool", "gate": small_disk / "gate"})
    publisher = line.settings.publisher.model_copy(update={"spool_min_free_bytes": LEFT_FREE})
    config.save(line.settings.model_copy(update={"paths": paths, "publisher": publisher}), tmp_path / "config.yaml")
    line.folder = tmp_path
    return line


def fill(folder):
    """To the last byte."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == 28  # noqa: PT017 - no space left
    return folder / "filler"


def test_a_publisher_waits_on_a_full_disk_and_loses_nothing(on_small_disk, small_disk, tmp_path, servers):
    line, url = on_small_disk, urllib.parse.urlsplit(servers.amqp_url)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(200):
        (images / f"{number:03}.png").write_bytes(os.urandom(IMAGE))
    (port,) = server.free_ports(1)
    away = f"amqp://{url.username}:{url.password}@127.0.0.1:{port}"
    publisher = line.start("publish", "--line", "l1", "--category", "brick", str(images), PATCHLINE_AMQP_URL=away)
    while "image neither confirmed nor spooled" not in (said := publisher.stderr.readline()):
        assert said
    assert "spool_min_free_bytes is 8000000" in said
    filler = fill(small_disk)
    proxy = Proxy(url.port, port)
    line.messages(topology.JOBS, 1)
    assert publisher.poll() is None
    filler.unlink()
    out, _ = publisher.communicate(timeout=60)
    proxy.close()
    confirmed = {each["job_id"] for each in records(out) if each["state"] == "confirmed"}
    assert publisher.returncode == 0
    assert len(confirmed) == 200
    assert confirmed >= {each["job_id"] for each in records(out)}
    arrived = {each.message_id for each in line.messages(topology.JOBS, 500, timeout_s=3)}
    assert len(confirmed - arrived) <= 1  # the one that was taken above


def test_a_gate_acts_though_its_disk_is_full(on_small_disk, small_disk):
    line = on_small_disk
    gate = line.start("gate", "--line", "l1")
    wait_for((small_disk / "gate" / "l1.sqlite").exists)
    fill(small_disk)
    for number in range(300):
        line.announce_and_decide(f"j{number}")
    actions = [records(gate.stdout.readline())[0] for _ in range(300)]
    assert [each["job_id"] for each in actions] == [f"j{number}" for number in range(300)]
    assert {each["action"] for each in actions} == {"accept"}
    gate.terminate()
    _, said = gate.communicate(timeout=20)
    assert gate.returncode == 0
    assert 1 <= said.count("a restart would forget parts") < 30
