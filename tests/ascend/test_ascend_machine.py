"""The machine around the Ascend device: files of the SDK, several hosts and chips, and devices that are lost."""

import contextlib
import json
import os
import re
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from patchline.devices import backbone, child_process, loading, model_manifest, om_manifest
from patchline.protocol.errors import DeviceStuckError, Retry, SetupError
from patchline.services import server
from tests.ascend import test_ascend
from tests.parity.make_golden import brick_crop
from tests.standin import installation
from tests.system.conftest import wait_for

pytestmark = pytest.mark.timeout(300)
ascend_plant, sdk, on_cpu = test_ascend.ascend_plant, test_ascend.sdk, test_ascend.on_cpu


@pytest.mark.parametrize("surface", ["stream", "base"])
def test_with_two_hosts_a_fault_ends_one_and_every_result_belongs_to_its_image(
    ascend_plant, sdk, on_cpu, monkeypatch, machine, surface
):
    monkeypatch.setenv("PATCHLINE_MINDX_SURFACE", surface)
    machine({})
    images = [cv2.cvtColor(image, cv2.COLOR_BGR2RGB)[None] for image in test_ascend.different_images(40)]
    expected = [on_cpu.extract(image) for image in images]
    model = loading.load(ascend_plant / "models", "efficientnet_lite0", 128, test_ascend.ASCEND, streams=3, hosts=2)
    sdk(5, [*test_ascend.FAULTS, *test_ascend.FAULTS])
    retries = []

    def extract(image):
        while True:
            try:
                return model.extract(image)
            except Retry as error:
                retries.append(str(error))

    with contextlib.closing(model), ThreadPoolExecutor(3) as lanes:
        results = list(lanes.map(extract, images * 3))
    for number, features in enumerate(results):
        differences = [np.abs(features - other).max() for other in expected]
        assert np.argmin(differences) == number % len(images)
    happened = (sdk.folder / "happened").read_text().split()
    assert sorted(happened) == sorted(test_ascend.FAULTS * 2)
    silent = sum("it was silent" in retry for retry in retries)
    stalled = len(retries) - len(happened)  # a machine that stalls for 3 s makes a host silent, too
    assert 0 <= stalled <= silent - happened.count("block"), retries  # the image of the other host was not lost with it


def test_a_host_that_cannot_be_killed_loses_its_device_within_bounds(ascend_plant, sdk, stuck_file, monkeypatch):
    monkeypatch.setattr(child_process, "END_TIMEOUT_S", 0.5)
    monkeypatch.setenv("STANDIN_STUCK_FILE", str(stuck_file.path))
    load = partial(loading.load, ascend_plant / "models", "efficientnet_lite0", 128, test_ascend.ASCEND, streams=1)
    first, second = load(), load()
    sdk(1, ["stuck"])
    with pytest.raises(DeviceStuckError, match=r"process \d+ was killed and does not end") as loss:
        first.extract(brick_crop())
    for use in (lambda: first.extract(brick_crop()), load):  # no other process for this chip
        with pytest.raises(DeviceStuckError, match="was killed and does not end"):
            use()
    assert not loss.value.is_over()
    stuck_file.release()
    wait_for(loss.value.is_over)
    assert first.extract(brick_crop()).shape == second.extract(brick_crop()).shape
    first.close()
    second.close()


def test_a_worker_whose_device_is_lost_stays_without_jobs_and_the_other_device_goes_on(
    line, ascend_plant, sdk, stuck_file
):
    line.folder = ascend_plant
    port = _two_free_ports()
    supervisor = line.start(
        "worker",
        *("--devices", "ascend:0,ascend:1", "--metrics-port", str(port)),
        **test_ascend.sdk_variables() | {"STANDIN_STUCK_FILE": str(stuck_file.path)},
    )
    wait_for(lambda: _answers(port, "readyz") and _answers(port + 1, "readyz"))
    workers = _children(supervisor)
    sdk(1, ["stuck@0"])
    image = cv2.imencode(".png", next(test_ascend.different_images(1)))[1].tobytes()
    for number in range(60):
        line.send(image, f"lost-{number}", part_id=f"p{number}")
    verdicts = {verdict.job_id: verdict for verdict in line.verdicts(60)}
    assert len(verdicts) == 60
    assert all(verdict.score is not None for verdict in verdicts.values())
    wait_for(lambda: line.metric(port, "patchline_device_lost") == 1)
    assert (_answers(port, "readyz"), _answers(port, "healthz"), _answers(port + 1, "readyz")) == (False, True, True)
    time.sleep(2)  # of a supervisor that restarts after one second
    assert _children(supervisor) == workers
    assert len(_sleeping_in_the_kernel(workers)) == 1

    stuck_file.release()  # the worker ends, and is started again on the device that is back
    wait_for(lambda: _children(supervisor) != workers and _answers(port, "readyz"))
    assert line.metric(port, "patchline_device_lost") == 0
    assert len(_children(supervisor) & workers) == 1


def test_a_worker_whose_device_is_lost_at_the_start_says_so_and_ends_when_it_is_told_to(
    line, ascend_plant, sdk, stuck_file
):
    line.folder = ascend_plant
    sdk(1, ["stuck@0"])
    (port,) = server.free_ports(1)
    variables = test_ascend.sdk_variables() | {"STANDIN_STUCK_FILE": str(stuck_file.path)}
    worker = line.start("worker", "--device", "ascend:0", "--metrics-port", str(port), **variables)
    wait_for(lambda: _answers(port, "healthz") and line.metric(port, "patchline_device_lost") == 1)
    assert not _answers(port, "readyz")
    worker.terminate()
    assert worker.wait(10) == 0


@pytest.mark.parametrize("surface", ["stream", "base"])
@pytest.mark.parametrize("path", ["lib/libmxbase.so", installation.SCANNER])
def test_files_of_the_sdk_that_others_may_write_are_refused_at_the_start(ascend_plant, sdk, monkeypatch, surface, path):
    monkeypatch.setenv("PATCHLINE_MINDX_SURFACE", surface)
    (Path(os.environ["MX_SDK_HOME"]) / path).chmod(0o666)
    if surface == "base" and path == installation.SCANNER:
        _load(ascend_plant).close()  # this surface has no pipelines, and starts no scanner
        return
    call = {"stream": r"InitManager \(does this user own the files of the SDK\?\)", "base": "mx_init"}[surface]
    with pytest.raises(SetupError, match=f"{call} returned 1001; run `patchline doctor` for the cause"):
        _load(ascend_plant)


@pytest.mark.parametrize("surface", ["stream", "base"])
def test_a_device_that_is_full_or_missing_is_reported_at_the_start(ascend_plant, sdk, monkeypatch, machine, surface):
    monkeypatch.setenv("PATCHLINE_MINDX_SURFACE", surface)
    machine({"memory_mb": 150}, {"memory_mb": 8192})
    first = _load(ascend_plant, 0)
    with pytest.raises(SetupError, match=r"device ascend:0: .*(returned 6004|has no place)"):
        _load(ascend_plant, 0)
    with pytest.raises(SetupError, match=r"device ascend:2: .*(returned 6004|is not there)"):
        _load(ascend_plant, 2)
    _load(ascend_plant, 1).close()
    first.close()
    _load(ascend_plant, 0).close()  # the memory of a process is free after its end


def test_an_image_of_another_size_is_refused_by_its_bytes_or_by_its_shape(ascend_plant, sdk, monkeypatch):
    models = ascend_plant / "models"
    manifest = model_manifest.read(models, "efficientnet_lite0")
    om = om_manifest.read(models, manifest, 128).model_copy(update={"side": 160})
    messages = []
    for surface in ("stream", "base"):
        monkeypatch.setenv("PATCHLINE_MINDX_SURFACE", surface)
        wrong = loading.compile_model(models / om.file, manifest, 160, test_ascend.ASCEND, 1, "f16", om=om)
        with contextlib.closing(wrong), pytest.raises(Retry) as error:
            wrong.extract(np.zeros((1, 160, 160, 3), np.uint8))
        messages.append(str(error.value))
    assert "SendProtobuf returned 1004" in messages[0]  # by the number of bytes, and only that
    assert "type or shape of the input" in messages[1]


@pytest.mark.parametrize("layout", ["21.0.3.1", "23.0.0"])
@pytest.mark.parametrize("name", ["310", "310P3"])
def test_doctor_reads_both_layouts_of_npu_smi_and_runs_a_model_on_each_healthy_chip(
    ascend_plant, sdk, line, machine, layout, name
):
    machine({"name": name}, {"name": name, "health": "Alarm"}, {"name": name, "memory_mb": 50})
    _record_as_compiled_for(ascend_plant, f"Ascend{name}")
    report, text = _doctor(line, ascend_plant, STANDIN_NPU_SMI=layout)
    patterns = [
        f"ascend:0 ok {name}, OK, 49 degrees",
        f"ascend:1 PROBLEM {name}, Alarm, .* leave this chip out",
        f"ascend:2 ok {name}, OK, 49 degrees, 0 of 50 MB",
        "ascend:0 ok runs efficientnet_lite0_128 in",
        "ascend:2 PROBLEM device ascend:2: .*CreateMultipleStreams returned 6004",
    ]
    assert all(re.search(pattern, text) for pattern in patterns), report.out
    assert "ascend:1 ok" not in text  # it is not tried
    assert report.returncode != 0


def test_doctor_names_the_om_files_for_another_kind_of_chip_in_one_line(ascend_plant, sdk, line, machine):
    machine({"name": "310P3"}, {"name": "310P3"})
    _record_as_compiled_for(ascend_plant, "Ascend310")
    report, text = _doctor(line, ascend_plant)
    advice = "make them again with: patchline om --all --soc-version Ascend310P3"
    expected = f"ascend:0, ascend:1 PROBLEM is Ascend310P3, but efficientnet_lite0_128.om for Ascend310; {advice}"
    assert expected in text, report.out
    assert "runs efficientnet_lite0" not in text  # a chip of another kind cannot load it
    assert report.returncode == 1


@pytest.mark.parametrize("option", [None, "Ascend310P3"])
def test_doctor_says_before_the_first_om_which_chip_to_compile_for(ascend_plant, sdk, line, machine, option):
    machine({"name": "310P3"})
    manifest = om_manifest.path_of(ascend_plant / "models", "efficientnet_lite0", 128)
    content = manifest.read_bytes()
    manifest.unlink()
    try:
        _, text = _doctor(line, ascend_plant, **({} if option is None else {"PATCHLINE_SOC_VERSION": option}))
    finally:
        manifest.write_bytes(content)
    advice = "note is Ascend310P3, but patchline om compiles for Ascend310; set PATCHLINE_SOC_VERSION=Ascend310P3"
    assert (advice in text) == (option is None)


def _doctor(line, plant, **variables):
    """The report of doctor, and its text without the lines of its table."""
    line.folder = plant
    path = f"{test_ascend.STANDIN / 'bin'}:{os.environ['PATH']}"
    report = line.run("doctor", PATH=path, **variables, **test_ascend.sdk_variables())
    return report, re.sub(r"[│\s]+", " ", report.out)


def _record_as_compiled_for(plant, soc_version):
    models = plant / "models"
    om = om_manifest.read(models, model_manifest.read(models, "efficientnet_lite0"), 128)
    om_manifest.write(models, "efficientnet_lite0", om.model_copy(update={"soc_version": soc_version}))


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that sets the chips of the machine."""

    def set_chips(*chips):
        whole = [{"name": "310", "health": "OK", "card": 1, "memory_mb": 8192} | chip for chip in chips]
        (tmp_path / "chips.json").write_text(json.dumps(whole))

    monkeypatch.setenv("STANDIN_MACHINE", str(tmp_path))
    return set_chips


def _load(plant, device=0):
    device = backbone.Device("ascend", device)
    return loading.load(plant / "models", "efficientnet_lite0", 128, device, streams=1)


def _two_free_ports():
    """The first of two ports in a row."""
    while True:
        (port,) = server.free_ports(1)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port + 1)):
            return port


def _answers(port, probe):
    return server.responds(f"http://127.0.0.1:{port}/{probe}")


def _children(process):
    return {child.pid for child in psutil.Process(process.pid).children()}


def _sleeping_in_the_kernel(workers):
    hosts = [host for worker in workers for host in psutil.Process(worker).children()]
    return [host for host in hosts if host.status() == psutil.STATUS_DISK_SLEEP]
