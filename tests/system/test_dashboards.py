"""The queries of the dashboards, on a real Prometheus that scrapes a real line."""

import math
from pathlib import Path

import pytest

from patchline.services import private_servers, server
from tests.system.conftest import wait_for
from tests.system.prometheus import query
from tools import dashboards

pytestmark = pytest.mark.timeout(240)
NEED_A_CHIP = {"Chip temperature", "Chip memory"}  # their metrics need npu-smi
NEED_A_PLC = {
    "PLC: age of its heartbeat, silence, failed reads; the line runs (1) or stands",
    "Way left before the arm (1% of the parts had less)",
    "Parts that escaped, were missed, diverted or unannounced",
    "Camera: its PLC is silent, triggers unread",
}
DOCUMENTS = {"plant": dashboards.plant(), "line": dashboards.line()}


def test_the_committed_dashboards_are_up_to_date(tmp_path):
    dashboards.write(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_text() == (dashboards.FOLDER / file.name).read_text(), "run: python -m tools.dashboards"


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_dashboard_can_be_provisioned(document):
    assert document["uid"].startswith("patchline-")
    assert document["templating"]["list"][0]["type"] == "datasource"
    ids = [panel["id"] for panel in document["panels"]]
    assert len(set(ids)) == len(ids)
    positions = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in document["panels"]}
    assert len(positions) == len(ids)
    for panel in document["panels"]:
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_every_query_returns_data_while_a_line_runs(line, texture_folder, tmp_path, servers):
    *ports, pages_port = server.consecutive_free_ports(8)
    worker_port, supervisor_port, publisher_port, gate_port, camera_port, archive_port, console_port = ports
    line.folder = plant_with_supervisor_port(line.folder, tmp_path / "plant", supervisor_port)
    if servers.broker_metrics_port is None:
        pytest.skip("the metrics of the RabbitMQ of PATCHLINE_AMQP_URL are at an unknown port")
    prometheus, url = private_servers.prometheus(
        tmp_path / "prometheus", {"patchline": ports, "rabbitmq": [servers.broker_metrics_port]}
    )
    activate_bank(line)
    with private_servers.start_all([prometheus]):
        line.start("archive", "--metrics-port", str(archive_port))
        wait_for(lambda: server.responds(f"http://127.0.0.1:{archive_port}/readyz"))
        line.start("console", "--port", str(pages_port), "--metrics-port", str(console_port))
        line.start("gate", "--line", "l1", "--dry-run", "--metrics-port", str(gate_port))
        line.start("worker", "--devices", "cpu:0", "--metrics-port", str(worker_port))
        images = write_images(tmp_path / "images", sorted((texture_folder / "train" / "good").glob("*.png")), count=400)
        options = ("--line", "l1", "--category", "brick", "--rate", "8", "--metrics-port", str(publisher_port))
        line.start("publish", *options, str(images))
        options = ("--line", "l2", "--category", "brick", "--rate", "4", "--metrics-port", str(camera_port))
        line.start("camera", *options, f"folder:{images}")
        without_data = queries_of_lines("l1", "l2")
        assert len(without_data) > 20

        def all_have_data():
            server.responds(f"http://127.0.0.1:{pages_port}/healthz")
            for title, expression in set(without_data):
                if not all(map(math.isnan, query(url, expression))):
                    without_data.remove((title, expression))
            return not without_data

        try:
            wait_for(all_have_data, timeout_s=130)
        except AssertionError:
            pytest.fail(f"no data for: {sorted(without_data)}")


def plant_with_supervisor_port(source, folder, port):
    folder.mkdir()
    for name in ("models", "faiss-index-precision"):
        (folder / name).symlink_to((source / name).resolve())
    text = (source / "config.yaml").read_text()
    text = text.replace("worker: {", f"worker: {{supervisor_port: {port}, ")
    pictures = "{pass_share: 1.0, decisions: [fail, review], min_free_bytes: 0}"
    (folder / "config.yaml").write_text(f"{text}archive: {{pictures: {pictures}}}\nbanks: {{store: {folder}/store}}\n")
    return folder


def activate_bank(line):
    line.reconfigure(line.folder)
    assert line.run("banks", "init").returncode == 0
    assert line.run("banks", "publish", "brick", "--why", "a test").returncode == 0
    (version,) = (line.folder / "store" / "brick" / "versions").iterdir()
    result = line.run("banks", "activate", "brick", version.name, "--why", "a test")
    assert result.returncode == 0, result.err


def write_images(folder, sources, count):
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03}.png").write_bytes(sources[number % len(sources)].read_bytes())
    return folder


def queries_of_lines(line, line_with_camera):
    return {
        (
            panel["title"],
            target["expr"].replace("$line", line_with_camera if panel["title"].startswith("Camera") else line),
        )
        for document in DOCUMENTS.values()
        for panel in document["panels"]
        for target in panel["targets"]
        if panel["title"] not in NEED_A_CHIP | NEED_A_PLC
    }


def test_provisioning_and_compose_use_the_same_folder():
    provider = Path("deploy/grafana/provisioning/dashboards/patchline.yml").read_text()
    assert "/etc/grafana/patchline" in provider
    assert "/etc/grafana/patchline" in Path("deploy/compose.yaml").read_text()
