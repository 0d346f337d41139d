"""A `mindx_host` that listens on a Unix socket, as on the SDK's own system, and backbones that use it."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import psutil
import pytest

from patchline import config
from patchline.devices import loading, mindx_backbone, mindx_host
from patchline.operations import ascend_checks, doctor
from patchline.operations.findings import State
from patchline.protocol.errors import DeviceStuckError, MismatchError, Retry, SetupError
from tests.ascend import test_ascend
from tests.parity.make_golden import brick_crop
from tests.system.conftest import wait_for

pytestmark = pytest.mark.timeout(300)
ascend_plant, sdk, on_cpu = test_ascend.ascend_plant, test_ascend.sdk, test_ascend.on_cpu


class Listener:
    """A copy of the one file `mindx_host.py`, started alone."""

    def __init__(self, folder, models):
        self.socket = folder / "run" / "ascend0.sock"
        self.socket.parent.mkdir()
        self._file = folder / "mindx_host.py"
        shutil.copy(mindx_host.__file__, self._file)
        self.models = models
        self._processes = []

    def start(self, *options, device=0, wait=True):
        command = [sys.executable, str(self._file), "--listen", str(self.socket), "--device", str(device)]
        environment = os.environ | {"PYTHONPATH": str(test_ascend.STANDIN / "python")}
        return self.run([*command, "--models", str(self.models), *options], environment, wait)

    def run(self, command, environment, wait=True):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        self._processes.append(process)
        if wait:
            assert "mindx_host: device" in process.stderr.readline()
        return process

    def close(self):
        for process in self._processes:
            process.kill()
            process.communicate(timeout=30)


@pytest.fixture
def listener(tmp_path, ascend_plant, sdk, monkeypatch):
    listening = Listener(tmp_path, ascend_plant / "models")
    monkeypatch.setenv("PATCHLINE_MINDX_SOCKETS", str(listening.socket.parent))
    monkeypatch.setenv("PATCHLINE_MINDX_PYTHON", "no-python-of-the-sdk-here")
    yield listening
    listening.close()


@contextmanager
def another_worker(listener):
    """Another process that is connected to the listener."""
    script = "import socket, sys; c = socket.socket(socket.AF_UNIX); c.connect(sys.argv[1]); print(c.recv(99)); input()"
    command = [sys.executable, "-c", script, str(listener.socket)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert "protocol" in process.stdout.readline()
        yield process


@pytest.fixture
def load(ascend_plant):
    """A function that loads the model on the device behind the socket."""
    loaded = []

    def load_model():
        loaded.append(loading.load(ascend_plant / "models", "efficientnet_lite0", 128, test_ascend.ASCEND, streams=1))
        return loaded[-1]

    yield load_model
    for model in loaded:
        model.close()


@contextmanager
def connected(listener):
    """A connection to the listener, and its stream of replies."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(listener.socket))
        with connection.makefile("rb") as replies:
            yield connection, replies


def hosts_of(process):
    return psutil.Process(process.pid).children()


@pytest.mark.parametrize("surface", ["stream", "base"])
def test_features_through_a_socket_agree_with_the_cpu_within_float16(listener, load, on_cpu, surface, monkeypatch):
    monkeypatch.setenv("PATCHLINE_MINDX_SURFACE", surface)
    listener.start()
    images = np.concatenate([brick_crop(), 255 - brick_crop()])
    expected = on_cpu.extract(images)
    assert np.abs(load().extract(images) - expected).max() < 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("fault", test_ascend.FAULTS)
def test_after_a_fault_behind_a_socket_the_next_image_gets_its_own_result(listener, load, on_cpu, sdk, fault):
    process = listener.start()
    model = load()
    (first_host,) = hosts_of(process)
    sdk(1, [fault])
    with pytest.raises(Retry):
        model.extract(brick_crop())
    wait_for(lambda: not first_host.is_running())
    features = model.extract(255 - brick_crop())  # must not be a late result of the first image
    assert np.abs(features - on_cpu.extract(255 - brick_crop())).max() < 0.05
    assert (sdk.folder / "happened").read_text().split() == [fault]


def test_a_host_ends_when_its_worker_closes_the_connection(listener, load):
    process = listener.start()
    model = load()
    (host,) = hosts_of(process)
    model.close()
    wait_for(lambda: not host.is_running())
    assert process.poll() is None


def test_a_host_behind_a_socket_that_cannot_be_killed_loses_its_device_until_it_ends(
    listener, load, sdk, stuck_file, monkeypatch
):
    monkeypatch.setenv("STANDIN_STUCK_FILE", str(stuck_file.path))
    listener.start("--hosts", "2")  # the second place is no place on a device that hangs
    model = load()
    sdk(1, ["stuck"])
    with pytest.raises(Retry, match="silent"):
        model.extract(brick_crop())
    with pytest.raises(DeviceStuckError, match="was killed and does not end: its device hangs") as loss:
        model.extract(brick_crop())
    assert not loss.value.is_over()
    stuck_file.release()
    wait_for(loss.value.is_over)
    assert model.extract(brick_crop()).shape[0] == 1


def test_doctor_runs_a_model_on_each_chip_whose_host_listens(listener, line, ascend_plant, monkeypatch):
    listener.start()
    line.folder = ascend_plant
    report = line.run("doctor", **test_ascend.sdk_variables())
    assert re.search(r"ascend:0[│\s]+ok[│\s]+runs efficientnet_lite0_128 in", report.out), report.out


def test_doctor_does_not_wait_for_a_host_that_is_absent_or_serves_a_worker(listener, ascend_plant):
    settings = config.load(ascend_plant / "config.yaml")

    def findings():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mindx_backbone.time, "sleep", lambda _: pytest.fail("it waits"))
            found = [*ascend_checks.run(settings), *doctor.categories(settings, test_ascend.ASCEND)]
        return [finding for finding in found if finding.subject in ("ascend:0", "categories")]

    absent, not_loaded = findings()
    assert (absent.state, not_loaded.state) == (State.PROBLEM, State.PROBLEM)
    assert "ascend0.sock: no mindx_host listens there" in absent.text
    listener.start()
    with another_worker(listener) as worker:
        busy, not_loaded = findings()
    assert (busy.state, not_loaded.state) == (State.NOTE, State.NOTE)
    assert re.match(rf"in use by a running worker, .*it serves process {worker.pid}", busy.text)
    assert not_loaded.text.startswith("not loaded on ascend:0: in use by a running worker")
    wait_for(lambda: ascend_checks.unusable_host(test_ascend.ASCEND) is None)


def test_a_host_that_is_blocked_ends_with_a_listener_that_is_killed(listener, load, sdk):
    process = listener.start()
    model = load()
    (host,) = hosts_of(process)
    sdk(1, ["block"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model._host, "_timeout_s", 2.0)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(Retry):
            model.extract(brick_crop())
    wait_for(lambda: not host.is_running())


def test_the_socket_is_for_its_group_and_replaces_that_of_a_killed_listener(listener, load):
    killed = listener.start()
    killed.kill()
    killed.wait()
    assert listener.socket.exists()
    gid = os.getgid()
    process = listener.start("--group", str(gid))
    status = listener.socket.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, gid)
    load()
    process.terminate()
    assert process.wait(30) == 0
    assert not listener.socket.exists()


def test_a_second_listener_on_a_socket_is_refused_in_one_line(listener, load):
    listener.start()
    second = listener.start(wait=False)
    assert second.wait(30) == 1
    assert second.stderr.read().splitlines() == [f"mindx_host: {listener.socket}: another mindx_host listens there"]
    load()


def test_an_unknown_group_is_refused_in_one_line(listener):
    process = listener.start("--group", "nobody-has-it", wait=False)
    assert process.wait(30) == 1
    assert len(process.stderr.read().splitlines()) == 1


def test_a_second_worker_is_refused_in_one_line_until_the_first_has_gone(listener, load, monkeypatch):
    monkeypatch.setattr("patchline.devices.mindx_backbone._BACKOFF_S", (0.01, 0.05))
    listener.start()
    with another_worker(listener) as first:
        with pytest.raises(SetupError, match=rf"ascend0\.sock: it serves process {first.pid}; a device has one worker"):
            load()
        first.kill()
    load().extract(brick_crop())


def test_a_worker_has_a_process_for_each_of_its_models_up_to_a_limit(listener, load, monkeypatch):
    monkeypatch.setattr("patchline.devices.mindx_backbone._BACKOFF_S", (0.01, 0.05))
    process = listener.start("--hosts", "2")
    first, second = load(), load()
    assert len(hosts_of(process)) == 2
    assert np.array_equal(first.extract(brick_crop()), second.extract(brick_crop()))
    with pytest.raises(SetupError, match=r"as many models as --hosts allows"):
        load()


def test_a_host_that_cannot_be_killed_keeps_its_place_until_it_ends(monkeypatch):
    worker_end, host_end = socket.socketpair()
    with monkeypatch.context() as patch:
        patch.setattr(mindx_host.sys, "executable", "sleep")
        patch.setattr(mindx_host, "__file__", "60")
        patch.setattr(mindx_host.json, "dumps", lambda here: "60")
        connection = mindx_host.Connection(host_end, SimpleNamespace(device=0, models="models"))
    try:
        assert not connection.is_over()
        assert f"it serves process {os.getpid()}" in connection.describe()
        with monkeypatch.context() as patch:
            patch.setattr(mindx_host, "KILL_TIMEOUT_S", 0.01)
            patch.setattr(mindx_host.os, "killpg", lambda group, number: None)  # as in uninterruptible sleep
            worker_end.close()
            assert not connection.is_over()
        assert "does not end: its device hangs" in connection.describe()
    finally:
        connection.end()
    assert connection.is_over()


def test_a_host_cannot_shrink_the_memory_that_it_shares():
    descriptor = mindx_backbone._make_memory(8192)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 4096)
    os.close(descriptor)


def test_a_missing_listener_is_reported_in_one_line(listener, load, monkeypatch):
    monkeypatch.setattr("patchline.devices.mindx_backbone._BACKOFF_S", (0.01, 0.05))
    with pytest.raises(SetupError, match=r"ascend0\.sock: no mindx_host listens there \(No such file") as error:
        load()
    assert "\n" not in str(error.value)


def test_a_listener_that_starts_after_the_worker_is_waited_for(listener, load, monkeypatch):
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            listener.start()

    monkeypatch.setattr("patchline.devices.mindx_backbone.time.sleep", sleep)
    load().extract(brick_crop())
    assert pauses == [0.2, 0.4]


def test_a_model_that_is_missing_or_differs_behind_the_socket_is_reported(listener, load, ascend_plant, tmp_path):
    models = tmp_path / "models"
    models.mkdir()
    listener.models = models
    listener.start()
    with pytest.raises(MismatchError, match=r"models/efficientnet_lite0.*\.om is not there: copy the \.om"):
        load()
    (name,) = (path.name for path in (ascend_plant / "models").glob("*.om"))
    (models / name).write_text("another")
    with pytest.raises(MismatchError, match="is not the model of the worker"):
        load()


def test_a_worker_cannot_name_a_file_outside_the_models(listener, tmp_path):
    listener.start()
    (tmp_path / "secret").write_text("secret")
    with connected(listener) as (connection, replies):
        assert json.loads(replies.readline()) == {"protocol": mindx_host.PROTOCOL, "device": 0}
        request = {"model": "../../secret", "sha256": "0" * 64}
        memory = os.memfd_create("test")
        socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], [memory])
        os.close(memory)
        assert "models/secret is not there" in json.loads(replies.readline())["error"]


def test_a_request_without_memory_is_answered_with_an_error(listener):
    listener.start()
    with connected(listener) as (connection, replies):
        replies.readline()
        connection.sendall(b'{"model": "x"}\n')
        assert "no shared memory" in json.loads(replies.readline())["error"]
        assert replies.readline() == b""


def test_a_worker_on_the_ascend_needs_no_openvino(listener, line, ascend_plant, tmp_path):
    listener.start()
    without = tmp_path / "without"
    without.mkdir()
    (without / "openvino.py").write_text('raise ModuleNotFoundError("no openvino", name="openvino")')
    line.folder = ascend_plant
    variables = test_ascend.sdk_variables() | {"PYTHONPATH": f"{without}:{Path.cwd()}"}
    line.worker("--device", "ascend:0", **variables)
    line.send(cv2.imencode(".png", brick_crop()[0])[1].tobytes(), "j1")
    (verdict,) = line.verdicts(1)
    assert (verdict.device, verdict.score is not None) == ("ascend:0", True)
    on_the_cpu = line.run("worker", "--device", "cpu", **variables)
    assert on_the_cpu.returncode == 2
    assert "device cpu:0 needs the package openvino: pip install openvino" in on_the_cpu.err
    assert "Traceback" not in on_the_cpu.err


def test_the_command_of_the_systemd_unit_runs_in_the_environment_of_the_sdks_scripts(listener, load, tmp_path):
    unit = Path("deploy/systemd/patchline-mindx@.service").read_text()
    command = re.search(r"ExecStart=/bin/bash -c '(.*)'", unit)[1].replace("$$", "$").replace("%i", "0")
    for path, here in {"/run/patchline": listener.socket.parent, "/opt/patchline": tmp_path}.items():
        command = command.replace(path, str(here))
    set_env = tmp_path / "set_env.sh"
    set_env.write_text(f"export PYTHONPATH={test_ascend.STANDIN / 'python'}: LD_LIBRARY_PATH=/nowhere:\n")
    environment = os.environ | {
        "PATCHLINE_ASCEND_SET_ENV": f"/dev/null:{set_env}",
        "PATCHLINE_MINDX_PYTHON": sys.executable,
        "PATCHLINE_MODELS": str(listener.models),
        "PATCHLINE_MINDX_HOSTS": "1",
    }
    listener.run(["/bin/bash", "-c", command.replace("--group patchline", f"--group {os.getgid()}")], environment)
    load().extract(brick_crop())


def test_a_host_of_another_version_is_refused(listener, load, monkeypatch):
    listener.start()
    monkeypatch.setattr(mindx_host, "PROTOCOL", mindx_host.PROTOCOL + 1)
    with pytest.raises(MismatchError, match=r"not protocol 2; copy the mindx_host\.py"):
        load()


def test_a_host_of_another_device_is_refused(listener, load):
    listener.start(device=1)
    with pytest.raises(MismatchError, match=r"ascend0\.sock: it serves device 1, not 0"):
        load()
