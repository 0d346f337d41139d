"""Pictures on their way from real workers to the archive: the archive is killed, and its stores go away."""

import signal
import sqlite3
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg
import pytest

from patchline.archive import opening
from patchline.protocol import topology
from patchline.services import server
from tests import s3_server
from tests.archive_contract import message
from tests.conftest import CONFIG
from tests.picture_contract import picture
from tests.system.conftest import Line, emptied, records, wait_for

pytestmark = pytest.mark.timeout(300)
PICTURES = """
archive:
  batch: 20
  batch_ms: 20
  pictures: {decisions: [fail, review, expired, error], min_free_bytes: 0%s}
"""
MANY = 80


@pytest.fixture
def line(plant, empty_servers, tmp_path):
    """A line whose workers send pictures."""
    (tmp_path / "config.yaml").write_text(CONFIG + PICTURES % "")
    for name in ("models", "faiss-index-precision"):
        (tmp_path / name).symlink_to((plant / name).resolve())
    with ExitStack() as stack:
        yield Line(tmp_path, empty_servers, stack)


def start(line, ready=True):
    (port,) = server.free_ports(1)
    process = line.start("archive", "--metrics-port", str(port))
    process.metrics_port = port
    wait_for(lambda: server.is_listening(port))
    if ready:
        wait_for(lambda: is_ready(process))
    return process


def is_ready(process):
    return server.responds(f"http://127.0.0.1:{process.metrics_port}/readyz")


def rows(line, query):
    file = opening.target(line.settings)
    if not Path(file).exists():
        return []
    with closing(sqlite3.connect(file, timeout=10)) as connection:
        return connection.execute(query).fetchall()


def found(line, *options):
    result = line.run("archive", "find", "--most", "1000", *options)
    assert result.returncode == 0, result.err
    return records(result.out)


def test_every_reject_has_its_picture_although_the_archive_is_killed_and_the_store_goes_away(
    line, texture_folder, tmp_path
):
    images = [image for kind in ("good", "scratch") for image in sorted((texture_folder / "test" / kind).iterdir())[:2]]
    bodies = {f"job-{number}": images[number % len(images)].read_bytes() for number in range(MANY)}
    bodies |= {"damaged": b"\x89PNG no image", "late": images[0].read_bytes()}
    store, away = line.settings.paths.archive / "pictures", tmp_path / "away"
    worker, archive = line.worker(), start(line)
    jobs = list(bodies)
    for number, job in enumerate(jobs):
        if number == MANY // 4:
            archive.send_signal(signal.SIGKILL)
            archive.wait(10)
        if number == MANY // 2:
            archive = start(line)
            store.rename(away)
        deadline = {"deadline": 1_700_000_000_000} if job == "late" else {}
        line.send(bodies[job], job, part_id=f"part-of-{job}", **deadline)
    # While the store is away verdicts are archived, pictures are not, and the archive says so.
    wait_for(lambda: len(rows(line, "SELECT job_id FROM verdicts")) == len(jobs), 90)
    wait_for(lambda: line.metric(archive.metrics_port, "patchline_archive_pictures_ready") == 0)
    assert line.metric(archive.metrics_port, "patchline_archive_ready") == 1
    assert not is_ready(archive)
    away.rename(store)
    wait_for(lambda: is_ready(archive))
    assert line.metric(worker.metrics_port, "patchline_pictures_lost_total") == 0
    rejected = {job for job, decision in rows(line, "SELECT job_id, decision FROM verdicts") if decision != "pass"}
    assert {"damaged", "late"} < rejected
    assert len(rejected) >= MANY // 2
    assert len(rejected) < len(jobs)
    query = "SELECT job_id, digest FROM pictures WHERE kind = 'image'"
    wait_for(lambda: {job for job, _ in rows(line, query)} == rejected, 60)
    stored = opening.open_store(line.settings)
    for job, digest in rows(line, query):
        assert stored.get(digest) == bodies[job]
    assert len(rows(line, "SELECT * FROM further_verdicts")) == 0
    judged = rejected - {"damaged", "late"}
    assert {job for (job,) in rows(line, "SELECT job_id FROM pictures WHERE kind = 'heat_map'")} == judged
    assert line.messages(topology.PICTURES, 1, timeout_s=1.0) == []
    assert_pictures_are_found_written_and_held(line, bodies, min(judged), tmp_path)


def assert_pictures_are_found_written_and_held(line, bodies, job, tmp_path):
    shown = {verdict["job_id"]: verdict.get("archived_pictures", []) for verdict in found(line)}
    assert (shown[job], shown["damaged"]) == (["heat_map", "image"], ["image"])
    assert [] in shown.values()  # passes
    result = line.run("archive", "picture", job, "-o", str(tmp_path / "out"))
    assert result.returncode == 0, result.err
    assert (tmp_path / "out" / f"{job}-image.png").read_bytes() == bodies[job]
    assert (tmp_path / "out" / f"{job}-heat_map.png").read_bytes().startswith(b"\x89PNG")
    assert len(result.out.splitlines()) == 2
    assert line.run("archive", "hold", job, "--reason", "claim 7").out == f"{job}: 2 pictures held\n"
    assert set(rows(line, f"SELECT hold FROM pictures WHERE job_id = '{job}'")) == {("claim 7",)}
    result = line.run("archive", "release", job, "nothing")
    assert (result.returncode, result.out) == (2, f"{job}: 2 pictures released\n")
    assert "nothing: the archive knows no job with this id" in result.err
    assert "Traceback" not in result.err


def test_pictures_get_to_s3_although_it_was_away_and_postgresql_is_restarted(line, postgres, tmp_path):
    s3_server.require()
    (port,) = server.free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    s3 = f", store: 's3://pictures/plant', endpoint: '{endpoint}'"
    (tmp_path / "config.yaml").write_text(CONFIG + PICTURES % s3)
    line.environment |= {"AWS_ACCESS_KEY_ID": "patchline", "AWS_SECRET_ACCESS_KEY": "secret"}
    line.environment["PATCHLINE_ARCHIVE_URL"] = emptied(postgres)
    archive = start(line, ready=False)
    publish(line, range(20))
    wait_for(lambda: count(postgres.url, "verdicts") == 20)
    wait_for(lambda: line.metric(archive.metrics_port, "patchline_archive_pictures_ready") == 0)
    assert count(postgres.url, "pictures") == 0
    moto = server.Server("moto", moto_command(port), tmp_path / "moto", lambda: server.is_listening(port))
    moto.start()
    try:
        moto.wait()
        s3_server.make_bucket(endpoint)
        wait_for(lambda: count(postgres.url, "pictures") > 0)
        postgres.crash()
        publish(line, range(20, 40))
        postgres.server.start()
        postgres.server.wait()
        wait_for(lambda: count(postgres.url, "pictures") == 40, 90)
        wait_for(lambda: count(postgres.url, "verdicts") == 40)
        wait_for(lambda: is_ready(archive))
        result = line.run("archive", "picture", "job-33", "-o", str(tmp_path / "out"))
        assert result.returncode == 0, result.err
        assert (tmp_path / "out" / "job-33-image.png").read_bytes() == b"image 33"
    finally:
        moto.stop()
    result = line.run("archive", "picture", "job-33", "-o", str(tmp_path / "out"))
    assert (result.returncode, result.err.count("\n")) == (2, 1)
    assert "the store of the pictures cannot be used" in result.err


def moto_command(port):
    return [sys.executable, "-c", s3_server.SCRIPT, "-H", "127.0.0.1", "-p", str(port)]


def publish(line, numbers):
    for number in numbers:
        line.broker.publish(topology.VERDICTS, "l1.brick.fail", message(f"job-{number}"))
        sent = picture(f"job-{number}", body=f"image {number}".encode())
        line.broker.publish(topology.PICTURES, "l1.brick.fail", sent)


def count(url, table):
    try:
        with psycopg.connect(url) as connection:
            return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    except psycopg.Error:
        return 0


def test_a_full_queue_of_pictures_delays_no_verdict_and_is_counted(line, texture_folder, tmp_path):
    """Nobody reads the pictures: the queue takes a few, and refuses the others."""
    text = (CONFIG + PICTURES % "").replace("max_attempts: 3", "max_attempts: 3, pictures_max_bytes: 50000")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.yaml").write_text(text)
    for name in ("models", "faiss-index-precision"):
        (tmp_path / "full" / name).symlink_to((tmp_path / name).resolve())
    line.reconfigure(tmp_path / "full")
    image = min((texture_folder / "test" / "scratch").iterdir()).read_bytes()
    worker = line.worker()
    for number in range(30):
        line.send(image, f"job-{number}")
    assert {verdict.job_id for verdict in line.verdicts(30)} == {f"job-{number}" for number in range(30)}
    wait_for(lambda: line.metric(worker.metrics_port, "patchline_pictures_lost_total") > 0)
    assert line.metric(worker.metrics_port, "patchline_pictures_sent_total") > 0
    worker.terminate()
    _, log = worker.communicate(timeout=40)
    assert "pictures of a part left out of the archive" in log
    assert line.verdicts(1, timeout_s=1.0) == []  # every job was acknowledged
