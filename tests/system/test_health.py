"""Health endpoints and metrics of a worker."""

import shutil
import subprocess
import urllib.request

import pytest

from patchline.runtime.health import Health
from patchline.services import server
from tests import held_file
from tests.queues import JOBS_QUEUE, delete_if_read
from tests.system.conftest import wait_for

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def image(texture_folder):
    return next((texture_folder / "test" / "scratch").glob("*.png")).read_bytes()


def url(worker, path):
    return f"http://127.0.0.1:{worker.metrics_port}/{path}"


def test_a_worker_is_alive_while_it_loads_and_ready_when_it_consumes(line, tmp_path):
    line.reconfigure(shutil.copytree(line.folder, tmp_path / "plant", symlinks=True))
    model = held_file.hold_the_model(line.folder)
    (port,) = server.free_ports(1)
    worker = line.start("worker", "--metrics-port", str(port))
    worker.metrics_port = port
    wait_for(lambda: server.responds(url(worker, "healthz")))
    assert not server.responds(url(worker, "readyz"))
    model.release()
    wait_for(lambda: server.responds(url(worker, "readyz")))
    assert not server.responds(url(worker, "secrets"))


def test_a_worker_with_stuck_lanes_is_not_alive():
    now = 0.0
    health = Health(stuck_s=60.0, clock=lambda: now)
    health.is_consuming = lambda: True
    assert (health.is_alive(), health.is_ready()) == (True, False)
    health.record_progress()
    assert (health.is_alive(), health.is_ready()) == (True, True)
    now = 61.0
    assert (health.is_alive(), health.is_ready()) == (False, False)


def test_promtool_accepts_the_metrics(line, image):
    worker = line.worker("--device", "cpu")
    line.send(image, "one")
    line.send(b"", "two")
    assert len(line.verdicts(2)) == 2
    text = urllib.request.urlopen(url(worker, "metrics"), timeout=5).read()
    checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")
    assert line.metric(worker.metrics_port, "patchline_score_ratio_count") == 1
    assert line.metric(worker.metrics_port, "patchline_confirm_seconds_count") >= 3
    assert 0 < line.metric(worker.metrics_port, "patchline_calibrated_score_ratio") < 1


def test_a_worker_whose_queue_was_deleted_is_not_ready_until_it_is_made_again(line, image):
    worker = line.worker("--device", "cpu")
    # The worker makes the queue again, maybe before it is asked.
    amqp_url = line.environment["PATCHLINE_AMQP_URL"]
    wait_for(lambda: delete_if_read(amqp_url, JOBS_QUEUE) or not server.responds(url(worker, "readyz")))
    assert server.responds(url(worker, "healthz"))
    assert line.run("topology").returncode == 0
    wait_for(lambda: server.responds(url(worker, "readyz")), 15)
    line.send(image, "after")
    assert [verdict.job_id for verdict in line.verdicts(1)] == ["after"]
    worker.terminate()
    assert "consumer lost its queue" in worker.communicate(timeout=30)[1]


def test_a_worker_whose_verdicts_are_refused_is_not_ready_until_somebody_reads_them(line, image, tmp_path):
    line.reconfigure(plant_with_few_verdicts(line.folder, tmp_path / "plant"))
    worker = line.worker("--device", "cpu")
    assert line.metric(worker.metrics_port, "patchline_queue_max_length") == 3
    for number in range(40):  # the limit is a soft one: a few more are taken
        line.send(image, f"job-{number}")
    wait_for(lambda: not server.responds(url(worker, "readyz")))
    assert server.responds(url(worker, "healthz"))
    wait_for(lambda: line.metric(worker.metrics_port, "patchline_lanes_refused") > 0)
    assert len({verdict.job_id for verdict in line.verdicts(40)}) == 40
    wait_for(lambda: server.responds(url(worker, "readyz")))
    assert line.metric(worker.metrics_port, "patchline_lanes_refused") == 0
    worker.terminate()
    log = worker.communicate(timeout=30)[1]
    assert log.index("the worker waits: a queue is full") < log.index("RabbitMQ takes messages again")


def plant_with_few_verdicts(source, folder):
    folder.mkdir()
    for name in ("models", "faiss-index-precision"):
        (folder / name).symlink_to((source / name).resolve())
    text = (source / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("broker: {", "broker: {verdicts_max_length: 3, "))
    return folder
