"""The units of `deploy/systemd`, in a container with systemd on a temporary overlay of this machine.

Runs the systemd commands of docs/operations.md. Needs root, `systemd-nspawn` and Debian's Python.
"""

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
from patchline.devices import mindx_host
from patchline.gate.instance import default_name
from patchline.operations import plant_users
from patchline.protocol import topology
from patchline.runtime import connections
from patchline.services import private_servers, server
from tests.installed.test_operations import blocks
from tests.standin import installation
from tests.system.conftest import records, wait_for
from tests.system.gates import complete_lines

pytestmark = pytest.mark.timeout(240)
PYTHON = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
ETC = "etc/patchline"
STATE = {"spool": "spool", "gate": "gate-memory", "archive": "archive", "served_banks": "served-banks"}
STATE = {name: f"/var/lib/patchline/{folder}" for name, folder in STATE.items()}
GATES = (default_name(), "root")  # the name of the container is that of its root folder, unless /etc/hostname says more


def missing_requirement():
    """Return why the container cannot be booted here, or None."""
    if os.geteuid() != 0:
        return "only root can boot a container"
    if shutil.which("systemd-nspawn") is None:
        return "systemd-nspawn is not installed (Debian: systemd-container)"
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        return "root is not permitted to mount file systems here"
    return None if PYTHON.exists() else f"there is no {PYTHON}"


class Machine:
    """A container with a running systemd. Its files are in `root`."""

    def __init__(self, root, stack):
        self.root = root
        command = ["systemd-nspawn", f"--directory={root}", "--register=no", "--keep-unit", "--console=pipe"]
        command += [f"--bind-ro={sysconfig.get_path('purelib')}:/opt/site-packages", "--boot"]
        self.console = root.parent / "console.log"
        log = stack.enter_context(self.console.open("w"))
        streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
        self._container = subprocess.Popen([*command, "systemd.unit=basic.target"], **streams)
        stack.callback(self._end)
        wait_for(lambda: self._container.poll() is not None or self._leader)
        if self._container.poll() is not None:
            pytest.skip(f"the container does not boot: {self.console.read_text()}")
        wait_for(lambda: self.run("systemctl is-active basic.target", check=False) == "active")

    @property
    def _leader(self):
        """Process id of the systemd in the container. At first, nspawn has other children."""
        with suppress(psutil.NoSuchProcess):  # a child has ended meanwhile
            return next((child.pid for child in self._children() if child.name() == "systemd"), None)
        return None

    def _children(self):
        return psutil.Process(self._container.pid).children()

    def run(self, command, check=True):
        """Run a command in the container, in /etc/patchline. Return its output."""
        enter = ["nsenter", "--target", str(self._leader), "--mount", "--uts", "--ipc", "--pid", "bash", "-c"]
        result = subprocess.run(
            [*enter, f"cd /{ETC} && {command}"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        assert not check or result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}{self.journal()}"
        return result.stdout.strip()

    def journal(self):
        return self.run("journalctl --no-pager -n 60", check=False)

    def _end(self):
        self.run("systemctl poweroff", check=False)
        try:
            self._container.wait(20)
        except subprocess.TimeoutExpired:
            self._container.kill()
            self._container.wait()


def mount(stack, *arguments):
    """Mount a file system until the stack is closed."""
    subprocess.run(["mount", "-t", *arguments], check=True)
    stack.callback(subprocess.run, ["umount", "--lazy", arguments[-1]], check=True)


def overlay(folder, stack):
    """Mount a writable overlay of this machine's files, which leaves them unchanged."""
    folder.mkdir()
    mount(stack, "tmpfs", "-o", "size=1g", "tmpfs", str(folder))
    upper, work, root = (folder / name for name in ("upper", "work", "root"))
    for part in (upper, work, root):
        part.mkdir()
    mount(stack, "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", "overlay", str(root))
    return root


def install(root):
    """Install /opt/patchline like `make setup` does, with Debian's Python, which the hardened units can read.

    They cannot write byte code there, so it is copied too: else each start of each unit compiles all files.
    """
    home = root / "opt" / "patchline"
    for name in ("patchline", "models"):
        shutil.copytree(name, home / name)
    shutil.copytree("deploy/systemd", home / "deploy" / "systemd")
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", home / ".venv"], check=True)
    (site_packages,) = (home / ".venv" / "lib").glob("python3*/site-packages")
    (site_packages / "all.pth").write_text("/opt/patchline\n/opt/site-packages\n")
    entry = home / ".venv" / "bin" / "patchline"
    entry.write_text("#!/opt/patchline/.venv/bin/python\nfrom patchline.cli.main import main\n\nmain()\n")
    entry.chmod(0o755)
    subprocess.run(["chmod", "-R", "a+rX", home], check=True)


def configure(root, plant, node, redis_url):
    """Set up /etc/patchline like the page does before its systemd part: configuration, bank, users and queues."""
    etc = root / ETC
    shutil.copytree(plant / "faiss-index-precision", etc / "faiss-index-precision")
    document = yaml.safe_load((plant / "config.yaml").read_text())
    document |= {"broker": {"make_queues": False, "url": f"amqp://127.0.0.1:{node.port}"}, "redis": {"url": redis_url}}
    document |= {"paths": {"models": "/opt/patchline/models", **STATE}, "worker": {}}
    (etc / "config.yaml").write_text(yaml.safe_dump(document))
    settings = config.load(etc / "config.yaml")
    topologies = [connections.plant(settings), connections.ledger(settings), topology.gate("press-3", GATES)]
    plant_users.write(etc / "secrets", topologies, f"amqp://127.0.0.1:{node.port}")
    private_servers.rabbitmqctl(node, "import_definitions", str(etc / "secrets" / "definitions.json"))
    choose_ports(root)


def choose_ports(root):
    """Give each unit a free port for its metrics: the container has the network of this machine."""
    units = sorted(Path("deploy/systemd").glob("*.service"))
    with_metrics = [unit for unit in units if "Environment=METRICS_PORT=" in unit.read_text()]
    for unit, port in zip(with_metrics, server.free_ports(len(with_metrics)), strict=True):
        folder = root / "etc" / "systemd" / "system" / f"{unit.name}.d"
        folder.mkdir(parents=True)
        (folder / "port.conf").write_text(f"[Service]\nEnvironment=METRICS_PORT={port}\n")


@pytest.fixture
def machine(tmp_path, plant):
    if (reason := missing_requirement()) is not None:
        pytest.skip(reason)
    with ExitStack() as stack:
        home = stack.enter_context(private_servers.temporary_folder())
        node = private_servers.rabbitmq(home / "rabbitmq")
        redis, redis_url = private_servers.redis(home / "redis")
        stack.enter_context(private_servers.start_all([node.server, redis]))
        root = overlay(tmp_path / "machine", stack)
        install(root)
        configure(root, plant, node, redis_url)
        yield Machine(root, stack)


def systemd_commands():
    """Return the commands of the page's systemd part."""
    (block,) = (block for block in blocks("sh") if "useradd" in block)
    assert "METRICS_PORT=9110" in block
    return block.replace("METRICS_PORT=9110\\n", "").replace("gasket", "brick").splitlines()


def capture(machine, pictures, first):
    """Move pictures into the watched folder, numbered from `first`."""
    folder = machine.root / ETC / "captured"
    for number, path in enumerate(pictures, first):
        picture = cv2.imread(str(path))
        picture[0, 0] = number
        assert cv2.imwrite(str(folder / ".new.png"), picture)
        (folder / ".new.png").rename(folder / f"part-{number}.png")


def actions(machine):
    file = machine.root / STATE["gate"].lstrip("/") / "actions.jsonl"
    return records(complete_lines(file)) if file.exists() else []


def test_the_units_run_a_line_and_a_worker_restart_loses_no_part(machine, texture_folder):
    for command in systemd_commands():
        machine.run(command)
    units = re.search(r"enable --now (.*)", "\n".join(systemd_commands()))[1].split()
    assert [machine.run(f"systemctl is-active {unit}", check=False) for unit in units] == ["active"] * len(units)
    owners = [machine.run(f"stat --format='%U %a' {folder}") for folder in STATE.values()]
    assert owners == ["patchline 700"] * len(STATE)
    pictures = sorted((texture_folder / "test").rglob("*.png"))
    capture(machine, pictures, first=0)
    wait_for(lambda: len(actions(machine)) >= 4)
    machine.run(f"systemctl restart {units[0]}")
    capture(machine, pictures, first=len(pictures))
    wait_for(lambda: len(actions(machine)) == 2 * len(pictures))
    action_by_part = {action["part_id"]: action for action in actions(machine)}
    assert len(action_by_part) == len(actions(machine)) == 2 * len(pictures)
    assert {action["because"] for action in action_by_part.values()} <= {"pass", "review", "fail"}
    machine.run(f"systemctl stop {' '.join(units)}")
    results = machine.run(f"systemctl show --property=Result --value {' '.join(units)}").split()
    assert results == ["success"] * len(units), machine.journal()
    assert machine.run(f"systemctl show --property=NRestarts --value {' '.join(units)}").split() == ["0"] * len(units)


def test_the_unit_of_a_camera_goes_on_after_its_process_was_killed(machine):
    camera = "patchline-camera@press-3"
    *commands, enable = systemd_commands()
    for command in (*commands, *CAMERA, enable.replace("patchline-publisher@press-3", camera)):
        machine.run(command)
    wait_for(lambda: len(actions(machine)) >= 5)
    machine.run(f"systemctl kill --signal=KILL {camera}")
    wait_for(lambda: machine.run(f"systemctl show --property=NRestarts --value {camera}") == "1")
    seen = len(actions(machine))
    wait_for(lambda: len(actions(machine)) >= seen + 5)
    judged = [action for action in actions(machine)[seen + 1 :] if action["because"] != "error"]
    assert judged, actions(machine)
    machine.run(f"systemctl stop {camera}")
    assert machine.run(f"systemctl show --property=Result --value {camera}") == "success", machine.journal()


CAMERA = (r"printf 'CATEGORY=brick\nSOURCE=simulated:frame_s=0.001\nTRIGGERS=--rate 4\n' > camera-press-3.env",)


def test_a_gate_of_the_unit_serves_a_plc_on_port_502_with_its_drop_ins(machine):
    *commands, _ = systemd_commands()
    for command in (*commands, *PLC_DROP_INS, "systemctl start patchline-gate@press-3"):
        machine.run(command)
    wait_for(lambda: "listening for the PLC" in machine.run("journalctl --no-pager -u patchline-gate@press-3"))
    process = main_process(machine, "patchline-gate@press-3")
    bits = machine.run(f"grep CapEff /proc/{process}/status").split()[1]
    assert int(bits, 16) == 1 << CAP_NET_BIND_SERVICE
    machine.run("systemctl stop patchline-gate@press-3")


PLC_DROP_INS = (
    "install -D --mode=644 --target-directory=/etc/systemd/system/patchline-gate@press-3.service.d "
    "/opt/patchline/deploy/systemd/gate-plc.conf /opt/patchline/deploy/systemd/gate-low-port.conf",
    "echo OUTPUT=modbus-server:0.0.0.0:502 >> gate-press-3.env",
    "systemctl daemon-reload",
)
CAP_NET_BIND_SERVICE = 10


def test_a_hardened_worker_uses_the_ascend_through_the_unit_of_the_sdk(machine, texture_folder):
    install_the_standin(machine)
    *commands, enable = systemd_commands()
    for command in (*commands, *SPLIT):
        machine.run(command)
    machine.run(enable.replace("patchline-worker@cpu:0", "patchline-mindx@0 patchline-worker@ascend:0"))
    assert machine.run("stat --format='%U %G %a' /run/patchline/ascend0.sock") == "HwHiAiUser patchline 660"
    pictures = sorted((texture_folder / "test").rglob("*.png"))
    capture(machine, pictures, first=0)
    wait_for(lambda: len(actions(machine)) == len(pictures))
    assert {action["because"] for action in actions(machine)} <= {"pass", "review", "fail"}
    namespaces = [
        machine.run(f"readlink /proc/{pid}/ns/mnt") for pid in (1, main_process(machine, "patchline-mindx@0"))
    ]
    assert namespaces[0] == namespaces[1]  # otherwise the driver takes it for a container
    machine.run("systemctl stop patchline-worker@ascend:0 patchline-mindx@0")
    assert not (machine.root / "run" / "patchline" / "ascend0.sock").exists()


SPLIT = (
    "useradd --create-home HwHiAiUser",
    "chown --recursive HwHiAiUser: /opt/sdk",
    "echo PATCHLINE_MINDX_TIMEOUT_MS=20000 >> worker.env",
    "PATH=/opt/patchline/tests/standin/bin:$PATH /opt/patchline/.venv/bin/patchline om efficientnet_lite0 --side 128",
    "install -D --mode=644 --target-directory=/etc/systemd/system/patchline-worker@ascend:0.service.d "
    "/opt/patchline/deploy/systemd/ascend.conf",
    "systemctl daemon-reload",
)


def install_the_standin(machine):
    """The stand-in of the SDK, and the one file that its system needs."""
    opt = machine.root / "opt"
    standin = opt / "patchline" / "tests" / "standin"
    shutil.copytree("tests/standin", standin)
    subprocess.run(["chmod", "-R", "a+rX", standin], check=True)
    sdk = installation.install(opt / "sdk")
    (sdk / "python").unlink()
    (sdk / "python").symlink_to("/opt/patchline/tests/standin/python")
    (opt / "sdk" / "openvino.sh").write_text("export PYTHONPATH=$PYTHONPATH:/opt/site-packages\n")
    shutil.copy(mindx_host.__file__, opt / "patchline" / "mindx_host.py")
    set_env = f"PATCHLINE_ASCEND_SET_ENV=/opt/sdk/{sdk.name}/set_env.sh:/opt/sdk/openvino.sh"
    (machine.root / ETC / "mindx.env").write_text(f"{set_env}\nPATCHLINE_MINDX_PYTHON=/usr/bin/python3\n")


def main_process(machine, unit):
    return machine.run(f"systemctl show --property=MainPID --value {unit}")
