"""The units of `deploy/systemd` under a systemd of their own, in a container on a throw-away layer over this machine.

The commands are those of docs/operations.md, obeyed this time. Needs root, `systemd-nspawn` and Debian's Python.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from contextlib import ExitStack, suppress
from pathlib import Path

import cv2
import psutil
import pytest
import yaml

from patchline import config
from patchline.operations import plant_users
from patchline.protocol import topology
from patchline.runtime import connections
from patchline.services import private_servers
from tests.system.conftest import wait_for
from tests.system.test_operations import blocks

pytestmark = pytest.mark.timeout(240)
PYTHON = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
ETC = "etc/patchline"


def missing():
    if os.geteuid() != 0:
        return "only root can boot a container"
    if shutil.which("systemd-nspawn") is None:
        return "systemd-nspawn is not installed (Debian: systemd-container)"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        return "this root may not mount"
    return None if PYTHON.exists() else f"there is no {PYTHON}"


class Machine:
    """A systemd that runs; its files lie in `root`."""

    def __init__(self, root, stack):
        self.root = root
        command = ["systemd-nspawn", f"--directory={root}", "--register=no", "--keep-unit", "--console=pipe"]
        command += [f"--bind-ro={sysconfig.get_path('purelib')}:/opt/site-packages", "--boot"]
        self.console = root.parent / "console.log"
        log = stack.enter_context(self.console.open("w"))
        own = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        self._container = subprocess.Popen([*command, "systemd.unit=basic.target"], **own)
        stack.callback(self._end)
        wait_for(lambda: self._container.poll() is not None or self._leader)
        if self._container.poll() is not None:
            pytest.skip(f"no container boots here: {self.console.read_text()}")
        wait_for(lambda: self.type("systemctl is-active basic.target", check=False) == "active")

    @property
    def _leader(self):
        """The systemd inside; nspawn has other children before it."""
        with suppress(psutil.NoSuchProcess):  # a child that ends while it is looked at
            return next((each.pid for each in self._children() if each.name() == "systemd"), None)
        return None

    def _children(self):
        return psutil.Process(self._container.pid).children()

    def type(self, command, check=True):
        """A command inside, in /etc/patchline; what it prints."""
        inside = ["nsenter", "--target", str(self._leader), "--mount", "--uts", "--ipc", "--pid", "bash", "-c"]
        told = subprocess.run(
            [*inside, f"cd /{ETC} && {command}"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert not check or told.returncode == 0, f"{command}\n{told.stdout}{told.stderr}{self.journal()}"
        return told.stdout.strip()

    def journal(self):
        return self.type("journalctl --no-pager -n 60", check=False)

    def _end(self):
        self.type("systemctl poweroff", check=False)
        try:
            self._container.wait(20)
        except subprocess.TimeoutExpired:
            self._container.kill()
            self._container.wait()


def mounted(stack, *arguments):
    subprocess.run(["mount", "-t", *arguments], check=True)
    stack.callback(subprocess.run, ["umount", "--lazy", arguments[-1]], check=True)


def layer(folder, stack):
    """This machine's files, which can be changed without changing them."""
    folder.mkdir()
    mounted(stack, "tmpfs", "-o", "size=1g", "tmpfs", str(folder))
    upper, work, root = (folder / name for name in ("upper", "work", "root"))
    for each in (upper, work, root):
        each.mkdir()
    mounted(stack, "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", "overlay", str(root))
    return root


def install(root):
    """/opt/patchline as `make setup` leaves it, with Debian's Python, which the hardened units can see."""
    home = root / "opt" / "patchline"
    for name in ("patchline", "models"):
        shutil.copytree(name, home / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree("deploy/systemd", home / "deploy" / "systemd")
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", home / ".venv"], check=True)
    (found,) = (home / ".venv" / "lib").glob("python3*/site-packages")
    (found / "all.pth").write_text("/opt/patchline\n/opt/site-packages\n")
    entry = home / ".venv" / "bin" / "patchline"
    entry.write_text("#!/opt/patchline/.venv/bin/python\nfrom patchline.cli.main import main\n\nmain()\n")
    entry.chmod(0o755)
    subprocess.run(["chmod", "-R", "a+rX", home], check=True)


def configure(root, plant, node, redis_url):
    """/etc/patchline as the page leaves it before systemd comes in: a configuration, a bank, users and queues."""
    etc = root / ETC
    shutil.copytree(plant / "faiss-index-precision", etc / "faiss-index-precision")
    own = yaml.safe_load((plant / "config.yaml").read_text())
    own |= {"broker": {"make_queues": False, "url": f"amqp://127.0.0.1:{node.port}"}, "redis": {"url": redis_url}}
    own |= {"paths": {"models": "/opt/patchline/models", "spool": "spool", "gate": "gate-memory"}, "worker": {}}
    (etc / "config.yaml").write_text(yaml.safe_dump(own))
    wanted = [connections.plant(config.load(etc / "config.yaml")), topology.gate("press-3")]
    plant_users.write(etc / "secrets", wanted, f"amqp://127.0.0.1:{node.port}")
    private_servers.rabbitmqctl(node, "import_definitions", str(etc / "secrets" / "definitions.json"))


@pytest.fixture
def machine(tmp_path, plant):
    if (why := missing()) is not None:
        pytest.skip(why)
    with ExitStack() as stack:
        home = stack.enter_context(private_servers.temporary_folder())
        node = private_servers.rabbitmq(home / "rabbitmq")
        redis, redis_url = private_servers.redis(home / "redis")
        stack.enter_context(private_servers.start_all([node.server, redis]))
        root = layer(tmp_path / "machine", stack)
        install(root)
        configure(root, plant, node, redis_url)
        yield Machine(root, stack)


def page():
    """The commands of the page's part on systemd."""
    (block,) = (each for each in blocks("sh") if "useradd" in each)
    return block.replace("gasket", "brick").splitlines()


def capture(machine, pictures, first):
    """Pictures into the watched folder, whole at once, as a camera's software does it."""
    folder = machine.root / ETC / "captured"
    for number, path in enumerate(pictures, first):
        picture = cv2.imread(str(path))
        picture[0, 0] = number
        assert cv2.imwrite(str(folder / ".new.png"), picture)
        (folder / ".new.png").rename(folder / f"part-{number}.png")


def actions(machine):
    file = machine.root / ETC / "gate-memory" / "actions.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_the_units_carry_a_line_and_a_restarted_worker_loses_no_part(machine, texture_folder):
    for command in page():
        machine.type(command)
    units = re.search(r"enable --now (.*)", "\n".join(page()))[1].split()
    assert [machine.type(f"systemctl is-active {unit}", check=False) for unit in units] == ["active"] * 3
    pictures = sorted((texture_folder / "test").rglob("*.png"))
    capture(machine, pictures, first=0)
    wait_for(lambda: len(actions(machine)) >= 4)
    machine.type(f"systemctl restart {units[0]}")
    capture(machine, pictures, first=len(pictures))
    wait_for(lambda: len(actions(machine)) == 2 * len(pictures))
    found = {each["part_id"]: each for each in actions(machine)}
    assert len(found) == len(actions(machine)) == 2 * len(pictures)
    assert {each["because"] for each in found.values()} <= {"pass", "review", "fail"}
    machine.type(f"systemctl stop {' '.join(units)}")
    shown = machine.type(f"systemctl show --property=Result --value {' '.join(units)}").split()
    assert shown == ["success"] * 3, machine.journal()
    assert machine.type(f"systemctl show --property=NRestarts --value {' '.join(units)}").split() == ["0"] * 3
