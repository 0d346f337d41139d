"""The containers of `deploy/`, without an engine: their users, modes, mounts and build context are simulated.

Simulated are the uids and modes of secrets and volumes, the read-only root, the dropped capabilities, and the files
that `COPY . .` takes. Not simulated are images, networks and the engine itself.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from patchline.operations import plant_users
from patchline.protocol import topology
from patchline.runtime import connections
from patchline.services import server
from tests.system.conftest import records, wait_for

pytestmark = pytest.mark.timeout(240)
COMPOSE = Path("deploy/compose.yaml")
PATCHLINE_UID, RABBITMQ_UID = 10001, 999
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change users and mount")
# The root of a container: read-only but for the mounts of its volumes and /tmp; its user has no capability.
ENTER = """
base=$1; shift
case "$PREFIX" in /root/*)  # a Python below the home of root, which other users may not enter
    mount --bind "$PREFIX" "$base/python"
    mount -t tmpfs -o mode=755 tmpfs /root
    mkdir -p "$PREFIX"
    mount --bind "$base/python" "$PREFIX";;
esac
for folder in $WRITABLE; do mount --bind "$folder" "$folder"; done
mount -o remount,bind,ro /
for folder in $(findmnt --noheadings --list --output TARGET | grep ^/root || true); do
    mount -o remount,bind,ro "$folder"
done
exec setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups --no-new-privs --bounding-set=-all "$@"
"""


def service(name):
    return yaml.safe_load(COMPOSE.read_text())["services"][name]


@pytest.fixture
def host():
    """A folder that every user may enter, unlike that of pytest."""
    with tempfile.TemporaryDirectory(prefix="patchline-host-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def in_container(host, command, writable, user_id=PATCHLINE_UID, **environment):
    """Start a command in a simulated container whose only writable folders are `writable`."""
    for name in ("home", "python", "tmp"):
        (host / name).mkdir(exist_ok=True)
    (host / "tmp").chmod(0o1777)
    variables = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path.cwd()),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PREFIX": sys.base_prefix,
        "HOME": str(host / "home"),
        "TMPDIR": str(host / "tmp"),
        "USER_ID": str(user_id),
        "WRITABLE": " ".join(map(str, [host / "tmp", *writable])),
    }
    return subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-euc", ENTER, "sh", str(host), *command],
        env=variables | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def compose_plant(host, plant, line):
    """The mounts of compose.yaml: configuration and bank read-only, secrets of their users, a volume for the state."""
    etc = host / "etc"
    etc.mkdir()
    shutil.copy(plant / "config.yaml", etc / "config.yaml")
    shutil.copytree(plant / "faiss-index-precision", etc / "faiss-index-precision")
    text = (etc / "config.yaml").read_text().replace("broker: {", "broker: {make_queues: false, ")
    paths = yaml.safe_load(Path("deploy/config.compose.yaml").read_text())["paths"]
    (etc / "config.yaml").write_text(f"paths: {paths}\n{text}")
    secrets = host / "secrets"
    plant_users.write(secrets, [connections.plant(line.settings), topology.gate("l1", ["g"])], "amqp://rabbitmq:5672")
    for user in ("worker", "publisher", "gate", "archive"):  # the broker of the test has no such users
        (secrets / f"{user}.url").write_text(line.environment["PATCHLINE_AMQP_URL"] + "\n")
    return host


def commands_of_the_header():
    """The `chown` commands at the top of compose.yaml."""
    lines = re.findall(r"^#   (chown .*)$", COMPOSE.read_text(), re.M)
    assert len(lines) == 2
    return [command.replace("deploy/secrets", "secrets") for command in lines]


def own_the_secrets(host):
    for command in commands_of_the_header():
        subprocess.run(["sh", "-c", command], cwd=host, check=True)


def volume(host, owner):
    """The volume `state` of a container, mounted on a folder of the image with this owner."""
    state = host / "etc" / "state"
    state.mkdir()
    os.chown(state, owner, owner)
    return state


@needs_root
def test_the_secrets_of_compose_are_readable_for_their_container_only(compose_plant):
    read = {f"{user}.url": PATCHLINE_UID for user in ("worker", "publisher", "gate", "archive", "judge", "console")}
    read["definitions.json"] = RABBITMQ_UID
    (compose_plant / "secrets").chmod(0o755)  # an engine mounts each file, whatever its folder
    for owned in (False, True):
        if owned:
            own_the_secrets(compose_plant)
        for name, user_id in read.items():
            process = in_container(compose_plant, ["cat", str(compose_plant / "secrets" / name)], [], user_id)
            outputs = process.communicate(timeout=30)
            assert (process.returncode == 0) is owned, (name, outputs)
        for name in read:
            assert (compose_plant / "secrets" / name).stat().st_mode & 0o077 == 0


@needs_root
def test_the_processes_of_compose_run_with_their_user_and_a_read_only_root(compose_plant, line, texture_folder):
    own_the_secrets(compose_plant)
    (compose_plant / "secrets").chmod(0o755)
    state = volume(compose_plant, PATCHLINE_UID)
    etc, captured = compose_plant / "etc", compose_plant / "captured"
    captured.mkdir()
    (port,) = server.free_ports(1)

    def start(name, *arguments):
        url = compose_plant / "secrets" / f"{name}.url"
        command = [sys.executable, "-m", "patchline", *arguments, "--config", str(etc / "config.yaml")]
        redis = line.environment["PATCHLINE_REDIS_URL"]
        return in_container(
            compose_plant, command, [state], PATCHLINE_AMQP_URL_FILE=str(url), PATCHLINE_REDIS_URL=redis
        )

    worker = start("worker", "worker", "--device", "cpu", "--metrics-port", str(port))
    publisher = start("publisher", "publish", "--line", "l1", "--category", "brick", "--watch", str(captured))
    try:
        wait_for(lambda: server.responds(f"http://127.0.0.1:{port}/readyz") or worker.poll() is not None)
        assert worker.poll() is None, worker.communicate()
        shutil.copy(next((texture_folder / "test" / "good").glob("*.png")), captured / "part-1.png")
        assert [verdict.part_id for verdict in line.verdicts(1)] == ["part-1"]
        assert {path.stat().st_uid for path in state.rglob("*")} == {PATCHLINE_UID}
    finally:
        for process in (worker, publisher):
            process.terminate()
        outputs = [process.communicate(timeout=60) for process in (worker, publisher)]
    assert (worker.returncode, publisher.returncode) == (0, 0), outputs
    assert records(outputs[1][0])[0]["state"] == "confirmed"


@needs_root
def test_a_volume_of_root_would_stop_a_publisher_of_compose(compose_plant):
    """So the image must have the folder of the volume, with the owner of its user."""
    own_the_secrets(compose_plant)
    (compose_plant / "secrets").chmod(0o755)
    state, config_file = volume(compose_plant, 0), compose_plant / "etc" / "config.yaml"
    command = [sys.executable, "-m", "patchline", "publish", "--line", "l1", "--category", "brick", str(config_file)]
    url = str(compose_plant / "secrets" / "publisher.url")
    process = in_container(
        compose_plant, [*command, "--config", str(config_file)], [state], PATCHLINE_AMQP_URL_FILE=url
    )
    errors = process.communicate(timeout=60)[1]
    assert (process.returncode, "cannot be used as a spool" in errors) == (2, True), errors
    assert re.search(
        rf"install --directory --owner={PATCHLINE_UID} --group={PATCHLINE_UID} /etc/patchline/state",
        Path("deploy/Dockerfile").read_text(),
    )


def test_compose_mounts_what_the_configuration_names():
    paths = yaml.safe_load(Path("deploy/config.compose.yaml").read_text())["paths"]
    for name in ("worker", "gate", "publisher", "console"):
        targets = [entry.split(":")[1] for entry in service(name)["volumes"]]
        assert "/etc/patchline/state" in targets
        assert "/etc/patchline/config.yaml" in targets
    assert all(paths[name].startswith("state/") for name in ("spool", "gate", "archive"))
    assert service("rabbitmq")["hostname"] == "rabbitmq"


def ignored(path, patterns):
    """Whether `.dockerignore` leaves a file out: the last pattern that matches it or a folder above it decides."""
    result = False
    for pattern in patterns:
        regex = re.escape(pattern.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{regex}(/.*)?", path):
            result = not pattern.startswith("!")
    return result


PLANTED = [
    "deploy/secrets/worker.url",
    "deploy/secrets/definitions.json",
    "secrets/gate.url",
    ".env",
    "patchline/worker.url",
    "models/authority.pem",
    "captured/part.png",
    "spool/l1.brick.sqlite",
    "faiss-index-precision/gasket/manifest.json",
    "tests/data/x.json",
    "out/demo/config.yaml",
    ".git/config",
    ".debian11/root/etc/shadow",
    ".debian13/root/etc/shadow",
    "publisher.env",
    "deploy/compose.yaml",
]


def test_no_secret_gets_into_the_image():
    patterns = [line for line in Path(".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert not [path for path in PLANTED if not ignored(path, patterns)]


def test_the_image_gets_everything_that_the_wheel_is_made_of():
    patterns = [line for line in Path(".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True).stdout.splitlines()
    needed = ("patchline/", "worker/", "publisher/", "models/efficientnet", "deploy/grafana/", "deploy/systemd/")
    files = [name for name in listed if name.startswith(needed) or name in ("pyproject.toml", "requirements.lock")]
    files += ["README.md", "LICENSE", "config.yaml", "docs/asyncapi.json", "deploy/prometheus/patchline.rules.yml"]
    assert not [name for name in files if ignored(name, patterns)]
    assert len(files) > 100
