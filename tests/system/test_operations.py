"""Every command of docs/operations.md that stands in a shell block, in its order, on a plant of its own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from broker import topology
from broker.rabbitmq import RabbitBroker
from process import line as surroundings
from tests.system.conftest import wait_for
from tools import server

pytestmark = pytest.mark.timeout(240)
STAYS = ("worker", "gate")


def commands():
    text = Path("docs/operations.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    return [each.strip() for block in blocks for each in block.strip().splitlines()]


def test_a_newcomer_gets_from_nothing_to_a_running_line(texture_folder, servers, tmp_path, line):
    text = (line.folder / "config.yaml").read_text().replace("brick:", "gasket:")
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "models").symlink_to(Path("models").resolve())
    shutil.copytree(texture_folder, tmp_path / "pictures")
    (tmp_path / "captured").mkdir()
    shutil.copy(next((texture_folder / "test" / "scratch").glob("*.png")), tmp_path / "captured" / "part-1.png")
    (port,) = server.free_ports(1)
    running, job_id = {}, None
    environment = os.environ | {"PATCHLINE_AMQP_URL": servers.amqp_url, "PATCHLINE_REDIS_URL": servers.redis_url}
    with RabbitBroker(servers.amqp_url) as broker:
        broker.declare(topology.gate("press-3"))
        broker.declare(surroundings.plant(line.settings))
    try:
        for command in commands():
            words = command.replace("9100", str(port)).replace("JOB_ID", str(job_id)).split()
            assert words[0] == "patchline", command
            log = (tmp_path / f"{words[1]}.log").open("w+")
            process = subprocess.Popen(
                [sys.executable, "-m", *words], cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
            log.close()
            if words[1] in STAYS:
                running[words[1]] = process
                continue
            assert process.wait(60) == 0, (tmp_path / f"{words[1]}.log").read_text()
            if words[1] == "publish":
                wait_for(lambda: '"action":"reject"' in (tmp_path / "gate.log").read_text())
                job_id = re.search(r'"job_id": "([^"]+)"', (tmp_path / "publish.log").read_text())[1]
        assert running.keys() == set(STAYS)
        assert (tmp_path / "out" / f"{job_id}.jpg").exists()
        assert (tmp_path / "secrets" / "gate.url").exists()
    finally:
        for process in running.values():
            process.terminate()
            process.wait(30)
