"""The wheel is the whole product: installed in an environment of its own, it judges images far from any checkout."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from patchline.protocol.messages import Decision
from patchline.services import server
from tests.conftest import SIDE
from tests.system.conftest import records, wait_for

pytestmark = pytest.mark.timeout(600)
PATIENCE_S = 120


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy of what is committed or about to be, so that no `build/` of a developer gets in."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        source, target = Path(name), folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.exists():
            shutil.copy(source, target)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), "./source"]
    subprocess.run(build, cwd=folder, check=True, timeout=300)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The `patchline` of a new environment with the packages of requirements.lock and the wheel, and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    # Python compiles what it imports; pip would compile all of it.
    requirements = ["--no-compile", "--require-hashes", "-r", "requirements.lock"]
    subprocess.run([*pip, *requirements], check=True, timeout=400)
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True, timeout=100)
    return folder / "bin" / "patchline"


def test_the_wheel_has_one_top_level_package_and_its_metadata(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    version = re.match(r"patchline-([^-]+)-", wheel.name)[1]
    assert {name.split("/")[0] for name in names} == {"patchline", f"patchline-{version}.dist-info"}
    for name in (
        "patchline/packaged/config.yaml",
        "patchline/packaged/asyncapi.json",
        "patchline/packaged/deploy/systemd/patchline-worker@.service",
        "patchline/packaged/deploy/prometheus/patchline.rules.yml",
        "patchline/packaged/deploy/grafana/dashboards/line.json",
        "patchline/models/efficientnet_lite0.onnx",
        "patchline/models/efficientnet_lite0.json",
        "patchline/models/atc_operators.json",
        "patchline/worker/lane.py",
        "patchline/archive/migrations/env.py",
        "patchline/archive/migrations/versions/v0001_verdicts.py",
        "patchline/archive/migrations/versions/v0002_pictures.py",
        "patchline/publisher/publisher.py",
        "patchline/console/static/htmx.min.js",
        "patchline/console/static/htmx-LICENSE.txt",
        "patchline/console/templates/base.html",
        "patchline/console/locale/de/LC_MESSAGES/console.mo",
        "patchline/console/locale/zh/LC_MESSAGES/console.mo",
        "patchline/py.typed",
    ):
        assert name in names


def test_good_images_become_verdicts_far_from_any_checkout(installed, empty_servers, texture_folder, tmp_path):
    names = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    environment |= {"PATCHLINE_AMQP_URL": empty_servers.amqp_url, "PATCHLINE_REDIS_URL": empty_servers.redis_url}

    def run(*arguments, folder=tmp_path / "plant"):
        command = [str(installed), *arguments]
        options = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": PATIENCE_S}
        ended = subprocess.run(command, check=False, **options)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    run("init", "plant/", "--line", "press-3", "--category", "gasket", folder=tmp_path)
    configuration = tmp_path / "plant" / "config.yaml"
    text = configuration.read_text().replace("256 ", f"{SIDE} ").replace("rate: 0.01", "rate: 0.05")
    configuration.write_text(
        text.replace("ratio: 0.01", "ratio: 0.05").replace("metrics_port: 9100", "metrics_port: 0")
    )
    assert "fail from" in run("fit", "--category", "gasket", str(texture_folder / "train" / "good"))
    assert "gasket.json" in run("evaluate", "--category", "gasket", str(texture_folder))
    with ExitStack() as stack:

        def start(name, *arguments):
            log = stack.enter_context((tmp_path / f"{name}.log").open("wb"))
            output = stack.enter_context((tmp_path / f"{name}.out").open("wb"))
            options = {"cwd": tmp_path / "plant", "env": environment, "stdout": output, "stderr": log}
            process = subprocess.Popen([str(installed), name, *arguments], **options)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)

        start("worker", "--device", "cpu")
        start("gate", "--line", "press-3", "--dry-run")
        scratch = next((texture_folder / "test" / "scratch").glob("*.png"))
        good = next((texture_folder / "train" / "good").glob("*.png"))
        published = records(run("publish", "--line", "press-3", "--category", "gasket", str(scratch), str(good)))
        parts = {record["part_id"]: record["job_id"] for record in published}
        wait_for(lambda: len((tmp_path / "gate.out").read_text().splitlines()) == len(parts), PATIENCE_S)
    acts = {record["part_id"]: record["action"] for record in records((tmp_path / "gate.out").read_text())}
    assert acts == {scratch.stem: "reject", good.stem: "accept"}
    verdict = json.loads(run("show", parts[scratch.stem]).split("\n}")[0] + "}")
    assert verdict["decision"] == Decision.FAIL
    last = records(run("recent", "--line", "press-3", "--category", "gasket"))
    assert {record["job_id"] for record in last} == set(parts.values())


def test_one_command_runs_a_plant_far_from_any_checkout(installed, servers, tmp_path):
    """The servers are those of the test. Another test, test_up.py, has private ones."""
    names = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in names if name in os.environ}
    environment |= {"PATCHLINE_AMQP_URL": servers.amqp_url, "PATCHLINE_REDIS_URL": servers.redis_url}
    options = {"cwd": tmp_path, "env": environment, "text": True, "timeout": PATIENCE_S}
    made = subprocess.run([str(installed), "init", "plant/"], capture_output=True, check=True, **options)
    assert "next: patchline up plant" in made.stdout
    up = [str(installed), "up", "plant/"]
    refused = subprocess.run(up, capture_output=True, check=False, **options)
    assert refused.returncode == 2
    assert "pip install 'patchline[console]'" in refused.stderr
    pip = [str(installed.with_name("pip")), "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    subprocess.run([*pip, "--require-hashes", "-r", "requirements-console.lock"], check=True, timeout=200)
    with (tmp_path / "said").open("wb") as output:
        process = subprocess.Popen(up, cwd=tmp_path, env=environment, stdout=output, stderr=output)
    try:
        said = (tmp_path / "said").read_text
        wait_for(lambda: "waits for a memory bank" in said() or process.poll() is not None, PATIENCE_S)
        address = re.search(r"open (\S+) in a browser", said())[1]
        assert server.responds(f"{address}healthz")
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, said()
