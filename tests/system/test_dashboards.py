"""Every query of every dashboard, against a real Prometheus that scrapes a real line at work."""

import json
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from patchline.services import private_servers, server
from tests.system.conftest import wait_for
from tools import dashboards

pytestmark = pytest.mark.timeout(240)
NEEDS_A_CHIP = {"Chip temperature", "Chip memory"}  # shown by npu-smi, which is not here
DOCUMENTS = {"plant": dashboards.plant(), "line": dashboards.line()}


def test_the_committed_dashboards_are_the_generated_ones(tmp_path):
    dashboards.write(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_text() == (dashboards.FOLDER / file.name).read_text(), "run: python -m tools.dashboards"


@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_a_dashboard_can_be_provisioned(document):
    assert document["uid"].startswith("patchline-")
    assert document["templating"]["list"][0]["type"] == "datasource"
    ids = [panel["id"] for panel in document["panels"]]
    assert len(set(ids)) == len(ids)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in document["panels"]}
    assert len(places) == len(ids)
    for panel in document["panels"]:
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_every_query_returns_data_of_a_line_at_work(line, texture_folder, tmp_path, servers):
    ports = server.consecutive_free_ports(3)
    first, supervisor_port, publisher_port = ports
    text = (line.folder / "config.yaml").read_text()
    folder = tmp_path / "plant"
    folder.mkdir()
    for name in ("models", "faiss-index-precision"):
        (folder / name).symlink_to((line.folder / name).resolve())
    (folder / "config.yaml").write_text(text.replace("worker: {", f"worker: {{supervisor_port: {supervisor_port}, "))
    line.folder = folder
    prometheus, url = private_servers.prometheus(
        tmp_path / "prometheus", {"patchline": ports, "rabbitmq": [servers.broker_metrics_port]}
    )
    with private_servers.start_all([prometheus]):
        line.start("worker", "--devices", "cpu:0", "--metrics-port", str(first))
        images = sorted((texture_folder / "train" / "good").glob("*.png"))
        loop = tmp_path / "loop"
        loop.mkdir()
        for number in range(400):
            (loop / f"{number:03}.png").write_bytes(images[number % len(images)].read_bytes())
        send = ("publish", "--line", "l1", "--category", "brick", "--rate", "8", "--metrics-port", str(publisher_port))
        line.start(*send, str(loop))
        queries = {
            (panel["title"], target["expr"].replace("$line", "l1"))
            for document in DOCUMENTS.values()
            for panel in document["panels"]
            for target in panel["targets"]
            if panel["title"] not in NEEDS_A_CHIP
        }
        assert len(queries) > 20
        silent = set(queries)

        def all_answered():
            silent.difference_update({each for each in silent if answered(url, each[1])})
            return not silent

        try:
            wait_for(all_answered, timeout_s=90)
        except AssertionError:
            pytest.fail(f"no data for: {sorted(silent)}")


def answered(url, query):
    whole = f"{url}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(whole, timeout=5) as reply:
        found = json.load(reply)["data"]["result"]
    return any(sample["value"][1] != "NaN" for sample in found)


def test_provisioning_files_name_what_is_there():
    provider = Path("deploy/grafana/provisioning/dashboards/patchline.yml").read_text()
    assert "/etc/grafana/patchline" in provider
    assert "/etc/grafana/patchline" in Path("deploy/compose.yaml").read_text()
