"""`patchline demo --plant`, with pictures of a brick wall in the place of the package with solar cells."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import pika
import psutil
import pytest

from patchline.services import server
from tests import children
from tests.conftest import make_textures
from tests.system.conftest import wait_for

PARTS = 15
CONFIG = """
categories:
  solar_cell_mono: {backbone: efficientnet_lite0, layer: blocks4+10, resize: 128, imagesize: 128, coreset_ratio: 0.05,
                    false_reject_rate: 0.05, review_rate: 0.1}
"""
pytestmark = pytest.mark.timeout(300)  # on a busy machine


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A folder with a package like that of the solar cells: 48 good pictures and 8 defects."""
    folder = tmp_path_factory.mktemp("packages")
    textures, data = tmp_path_factory.mktemp("textures"), folder / "elpv_dataset" / "data"
    make_textures(textures, "brick.png", 64)
    (data / "images").mkdir(parents=True)
    (folder / "elpv_dataset" / "__init__.py").touch()
    lines = []
    for number, path in enumerate(sorted(textures.glob("t*/*/*.png"))):
        path.rename(data / "images" / f"cell{number:04}.png")
        probability = 0.0 if path.parent.name == "good" else 1.0
        lines.append(f"images/cell{number:04}.png {probability} mono\n")
    (data / "labels.csv").write_text("".join(lines))
    return folder


@contextmanager
def demo(cells, folder, *options, **variables):
    """Start the demo on a belt, with private servers unless variables name others. Its output goes to files."""
    (folder / "config.yaml").write_text(CONFIG)
    arguments = ["--parts", str(PARTS), "--out", str(folder / "out"), "--config", str(folder / "config.yaml")]
    command = [sys.executable, "-m", "patchline", "demo", "--plant", *options, *arguments]
    path = os.pathsep.join([str(cells), os.environ.get("PYTHONPATH", "")])
    with (folder / "stdout").open("wb") as output, (folder / "stderr").open("wb") as errors:
        environment = os.environ | {"PYTHONPATH": path} | variables
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=errors)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def running_in(folder):
    """Return the processes that name a folder in their command."""
    names = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [command for command in names if any(str(folder) in word for word in command)]


def test_each_cell_on_the_belt_has_a_line_and_a_bin_and_the_console_stays_until_ctrl_c(servers, cells, tmp_path):
    with demo(cells, tmp_path, "--console") as process:
        output = tmp_path / "stdout"
        wait_for(lambda: b"the console stays" in output.read_bytes() or process.poll() is not None, 240)
        address = re.search(
            r"console: open (\S+) in a browser\nconsole: name admin, password \S+\n", output.read_text()
        )
        assert server.responds(f"{address[1]}healthz")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0, (tmp_path / "stderr").read_text()
    lines = output.read_text().splitlines()
    parts = [line for line in lines if line.startswith("part ")]
    assert {int(line.split()[1]) for line in parts} == set(range(1, PARTS + 1))
    assert all(line[12:].startswith(("good bin", "reject bin")) for line in parts)
    table = dict(line.strip("│ ").split("│") for line in lines if line.startswith("│"))
    values = {name.strip(): value.strip() for name, value in table.items()}
    assert values["parts"] == str(PARTS)
    assert values["in the good bin without a verdict pass"] == "0"
    (archived,) = [line for line in lines if line.startswith("the archive holds")]
    assert archived.startswith(f"the archive holds {PARTS} verdicts, and the pictures of ")
    assert not running_in(tmp_path)


def test_ctrl_c_ends_the_belt_with_all_its_processes_and_leaves_the_servers_that_it_was_given(
    empty_servers, cells, tmp_path
):
    given = {"PATCHLINE_AMQP_URL": empty_servers.amqp_url, "PATCHLINE_REDIS_URL": empty_servers.redis_url}
    with demo(cells, tmp_path, **given) as process:
        wait_for(lambda: b"part" in (tmp_path / "stdout").read_bytes() or process.poll() is not None, 240)
        assert len(running_in(tmp_path)) > 4
        started = {*children.names(psutil.Process(process.pid).children(recursive=True))}
        assert not started & {"beam.smp", "epmd", "redis-server"}
        said = (tmp_path / "stderr").read_text()
        assert "servers: RabbitMQ at 127.0.0.1:" in said
        assert "(PATCHLINE_AMQP_URL), Redis at 127.0.0.1:" in said
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0, (tmp_path / "stderr").read_text()
    assert "│ parts" in (tmp_path / "stdout").read_text()
    assert not running_in(tmp_path)
    with pika.BlockingConnection(pika.URLParameters(empty_servers.amqp_url)) as connection:
        assert connection.is_open
