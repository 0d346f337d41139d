"""Runs every command block of docs/operations.md, in order, in one shell."""

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

pytestmark = pytest.mark.timeout(600)  # on a busy machine
TEXT = Path("docs/operations.md").read_text()
BACKGROUND = ("worker", "archive", "gate", "traces")
UNITS = ("patchline-worker@cpu:0", "patchline-gate@press-3", "patchline-publisher@press-3", "patchline-archive")


def blocks(language):
    """Return the code blocks of the page in a language."""
    return [re.sub(r"(?m)^   ", "", block) for block in re.findall(rf"```{language}\n(.*?)[ ]*```", TEXT, re.S)]


def commands():
    return [line for block in blocks("sh") for line in block.splitlines()]


class Shell:
    """One bash process that runs commands. Everything started in it ends with it."""

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
        """Run a command that must succeed; return its output. Its input is empty: Erlang would read ahead."""
        self._bash.stdin.write(f"{{ {command}\n}} < /dev/null\nended=$?; echo; echo ENDED $ended\n")
        self._bash.stdin.flush()
        output = []
        for line in self._bash.stdout:
            if line.startswith("ENDED "):
                assert line.split()[1] == "0", f"{command}\n{''.join(output)}\n{self.log.read_text()}"
                return "".join(output)
            output.append(line)
        raise AssertionError(f"bash ended at: {command}")

    def end(self):
        os.killpg(self._bash.pid, signal.SIGTERM)
        self._bash.communicate(timeout=30)


@pytest.fixture
def host(tmp_path):
    """A shell with servers of this test, its RabbitMQ node, its /etc/patchline, and the folder of all its files."""
    etc, units = tmp_path / "etc" / "patchline", tmp_path / "root" / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    (tmp_path / "rabbitmq").mkdir()
    with private_servers.temporary_folder() as home:
        node = private_servers.rabbitmq(home / "rabbitmq")
        redis, redis_url = private_servers.redis(home / "redis")
        with private_servers.start_all([node.server, redis]):
            (plugins,) = private_servers.RABBITMQ.parents[1].glob("lib/rabbitmq_server-*/plugins")
            # Debian's rabbitmq-plugins sets PLUGINS_DIR, but the tools are run below without its wrapper.
            environment = {"PATCHLINE_REDIS_URL": redis_url, "PLUGINS_DIR": str(plugins)}
            shell = Shell(tmp_path, node.server.environment | environment)
            for tool in ("rabbitmqctl", "rabbitmq-diagnostics", "rabbitmq-plugins"):
                command = f'{private_servers.RABBITMQ.with_name(tool)} --node {node.name} "$@"'
                shell.run(f"{tool}() {{ (cd / && {command}); }}")  # Debian's wrapper changes the folder too
            yield shell, node, etc, tmp_path
            shell.end()


def adapt(command, node, folder):
    """Replace the paths and ports in a command by those of this test."""
    (port,) = server.free_ports(1)
    replacements = {
        "make -C": "make --dry-run -C",  # test_wheel.py does what it prints
        "https://example.org/patchline": str(Path.cwd()),
        "/opt/patchline": str(folder / "opt"),
        "/etc/patchline": str(folder / "etc" / "patchline"),
        "/var/lib/patchline": str(folder / "state"),
        "/etc/systemd/system/": str(folder / "root" / "etc" / "systemd" / "system") + "/",
        "/var/lib/rabbitmq/": str(folder / "rabbitmq") + "/",
        "install -o rabbitmq": f"install -o {os.getuid()}",
        "127.0.0.1:5672": f"127.0.0.1:{node.port}",
        "--metrics-port 9100": f"--metrics-port {port}",
        "useradd ": f"useradd --prefix {folder / 'root'} ",
        "chown -R patchline:patchline": f"chown -R {os.getuid()}:{os.getgid()}",
        "enable --now": "enable",
        "systemctl ": f"systemctl --root={folder / 'root'} ",
    }
    for old, new in replacements.items():
        command = command.replace(old, new)
    return command


def link_environment(folder):
    """Link the Python environment of this test instead of installing a second one."""
    (folder / "opt" / ".venv").mkdir()
    (folder / "opt" / ".venv" / "bin").symlink_to(Path(sys.executable).parent)


def add_user_files(etc, node, texture_folder):
    """Add the files that a user provides: the configuration of the page and pictures."""
    text = blocks("yaml")[0]
    text = text.replace("make_queues: false", f"make_queues: false, url: 'amqp://127.0.0.1:{node.port}'")
    text = text.replace("256", str(SIDE)).replace("0.01", "0.05, false_reject_rate: 0.05, review_rate: 0.1")
    text = text.replace("/var/lib/patchline", str(etc.parents[1] / "state"))
    (etc / "config.yaml").write_text(text.replace("/opt/patchline", str(etc.parents[1] / "opt")))
    shutil.copytree(texture_folder, etc / "pictures")
    good = etc / "pictures" / "train" / "good"
    next(good.glob("*.png")).rename(good / "0042.png")
    (etc / "false-rejects").mkdir()
    shutil.copy(next((texture_folder / "test" / "good").glob("*.png")), etc / "false-rejects" / "0815.png")
    (etc / "captured").mkdir()
    shutil.copy(next((texture_folder / "test" / "scratch").glob("*.png")), etc / "captured" / "part-1.png")
    (etc / "captured" / "part-2.png").write_bytes(b"not a picture")


def test_the_commands_of_the_page_set_up_a_running_line(host, texture_folder):
    shell, node, etc, folder = host
    job_ids = {}
    for command in commands():
        if re.search("systemctl (daemon-reload|restart)", command):
            assert "restart" not in command or command.split()[-1] in UNITS
            continue
        adapted = adapt(command, node, folder)
        for placeholder, part in (("DEAD_JOB_ID", "part-2"), ("JOB_ID", "part-1")):
            adapted = re.sub(rf"\b{placeholder}\b", job_ids.get(part, placeholder), adapted)
        background = re.search(r"patchline (\w+)(?= -|$)", adapted)  # no subcommand
        if background and background[1] in BACKGROUND and "export" not in adapted:
            shell.run(f"{adapted} > {background[1]}.log 2>&1 &")
            log = etc / f"{background[1]}.log"
            wait_for(lambda log=log: log.exists() and re.search("worker ready|started", log.read_text()))
            continue
        output = shell.run(adapted)
        if command.startswith("git clone"):
            link_environment(folder)
        elif command.startswith("cd "):
            add_user_files(etc, node, texture_folder)
        elif "patchline publish" in command:
            states = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
            job_ids = {state["part_id"]: state["job_id"] for state in states}
            wait_for(lambda: (etc / "gate.log").read_text().count('"action":"reject"') == 2)
    assert (etc / "out" / f"{job_ids['part-1']}.jpg").exists()
    enabled = folder / "root" / "etc" / "systemd" / "system" / "multi-user.target.wants"
    assert {path.name for path in enabled.iterdir()} == {f"{unit}.service" for unit in UNITS}
    assert "patchline" in (folder / "root" / "etc" / "passwd").read_text()


def test_every_command_on_the_page_is_in_a_code_block():
    indented = re.findall(r"(?m)^\n((?: {4,}\S.*\n)+)", re.sub(r"```.*?```", "", TEXT, flags=re.S))
    assert indented == []
