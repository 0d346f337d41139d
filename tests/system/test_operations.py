"""Every command of docs/operations.md that stands in a block, in its order, in one shell, on a plant of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from patchline.services import private_servers, server
from tests.conftest import SIDE
from tests.system.conftest import wait_for

pytestmark = pytest.mark.timeout(180)
TEXT = Path("docs/operations.md").read_text()
STAYS = ("worker", "gate", "traces")
UNITS = ("patchline-worker@cpu:0", "patchline-gate@press-3", "patchline-publisher@press-3")


def blocks(language):
    return [re.sub(r"(?m)^   ", "", each) for each in re.findall(rf"```{language}\n(.*?)[ ]*```", TEXT, re.S)]


def commands():
    return [line for block in blocks("sh") for line in block.splitlines()]


class Shell:
    """One bash, in which a newcomer types; it ends with all that was started in it."""

    def __init__(self, folder, environment):
        self.log = folder / "shell.log"
        with self.log.open("ab") as log:
            self._bash = subprocess.Popen(
                ["bash"],
                cwd=folder,
                env=os.environ | environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def run(self, command):
        """Its output, once it has ended well. It has no input: Erlang would swallow what is typed next."""
        self._bash.stdin.write(f"{{ {command}\n}} < /dev/null\nended=$?; echo; echo ENDED $ended\n")
        self._bash.stdin.flush()
        told = []
        for line in self._bash.stdout:
            if line.startswith("ENDED "):
                assert line.split()[1] == "0", f"{command}\n{''.join(told)}\n{self.log.read_text()}"
                return "".join(told)
            told.append(line)
        raise AssertionError(f"bash ended at: {command}")

    def end(self):
        os.killpg(self._bash.pid, signal.SIGTERM)
        self._bash.communicate(timeout=30)


@pytest.fixture
def host(tmp_path):
    """What a command sees of the machine: a shell, with paths and servers of this test; and where its files are."""
    etc, units = tmp_path / "etc" / "patchline", tmp_path / "root" / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    with private_servers.temporary_folder() as home:
        node = private_servers.rabbitmq(home / "rabbitmq")
        redis, redis_url = private_servers.redis(home / "redis")
        with private_servers.start_all([node.server, redis]):
            shell = Shell(tmp_path, node.server.environment | {"PATCHLINE_REDIS_URL": redis_url})
            for tool in ("rabbitmqctl", "rabbitmq-diagnostics"):
                shell.run(f'{tool}() {{ {private_servers.RABBITMQ.with_name(tool)} --node {node.name} "$@"; }}')
            yield shell, node, etc, tmp_path
            shell.end()


def here(command, node, folder):
    """A command with the paths and ports of this test."""
    (port,) = server.free_ports(1)
    swaps = {
        "https://example.org/patchline": str(Path.cwd()),
        "/opt/patchline": str(folder / "opt"),
        "/etc/patchline": str(folder / "etc" / "patchline"),
        "/etc/systemd/system/": str(folder / "root" / "etc" / "systemd" / "system") + "/",
        "127.0.0.1:5672": f"127.0.0.1:{node.port}",
        "--metrics-port 9100": f"--metrics-port {port}",
        "useradd ": f"useradd --prefix {folder / 'root'} ",
        "chown -R patchline:patchline": f"chown -R {os.getuid()}:{os.getgid()}",
        "enable --now": "enable",
        "systemctl ": f"systemctl --root={folder / 'root'} ",
    }
    for old, new in swaps.items():
        command = command.replace(old, new)
    return command


def put_environment(folder):
    """In place of a second .venv: the one that runs this test, and the sign that it is complete."""
    (folder / "opt" / ".venv").mkdir()
    (folder / "opt" / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (folder / "opt" / ".venv" / ".installed").touch()


def put_plant(etc, node, texture_folder):
    """What a newcomer brings along: the configuration of the page, and pictures."""
    (text,) = blocks("yaml")
    text = text.replace("make_queues: false", f"make_queues: false, url: 'amqp://127.0.0.1:{node.port}'")
    text = text.replace("256", str(SIDE)).replace("0.01", "0.05, false_reject_rate: 0.05, review_rate: 0.1")
    (etc / "config.yaml").write_text(text.replace("/opt/patchline", str(etc.parents[1] / "opt")))
    shutil.copytree(texture_folder, etc / "pictures")
    (etc / "captured").mkdir()
    shutil.copy(next((texture_folder / "test" / "scratch").glob("*.png")), etc / "captured" / "part-1.png")
    (etc / "captured" / "part-2.png").write_bytes(b"no picture")


def test_a_newcomer_gets_from_nothing_to_a_running_line(host, texture_folder):
    shell, node, etc, folder = host
    ids = {}
    for command in commands():
        if re.search("systemctl (daemon-reload|restart)", command):
            assert "restart" not in command or command.split()[-1] in UNITS
            continue
        typed = here(command, node, folder)
        for placeholder, part in (("DEAD_JOB_ID", "part-2"), ("JOB_ID", "part-1")):
            typed = re.sub(rf"\b{placeholder}\b", ids.get(part, placeholder), typed)
        stays = re.search(r"patchline (\w+)", typed)
        if stays and stays[1] in STAYS and "export" not in typed:
            shell.run(f"{typed} > {stays[1]}.log 2>&1 &")
            wait_for(lambda log=etc / f"{stays[1]}.log": log.exists() and re.search("started|serves", log.read_text()))
            continue
        told = shell.run(typed)
        if command.startswith("git clone"):
            put_environment(folder)
        elif command.startswith("cd "):
            put_plant(etc, node, texture_folder)
        elif "patchline publish" in command:
            states = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
            ids = {state["part_id"]: state["job_id"] for state in states}
            wait_for(lambda: (etc / "gate.log").read_text().count('"action":"reject"') == 2)
    assert (etc / "out" / f"{ids['part-1']}.jpg").exists()
    enabled = folder / "root" / "etc" / "systemd" / "system" / "multi-user.target.wants"
    assert {each.name for each in enabled.iterdir()} == {f"{unit}.service" for unit in UNITS}
    assert "patchline" in (folder / "root" / "etc" / "passwd").read_text()


def test_no_command_on_the_page_stands_outside_of_a_block():
    indented = re.findall(r"(?m)^\n((?: {4,}\S.*\n)+)", re.sub(r"```.*?```", "", TEXT, flags=re.S))
    assert indented == []
