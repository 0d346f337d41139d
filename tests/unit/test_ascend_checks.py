"""What doctor says about a machine with Ascend chips."""

import os
import re
import sys
from dataclasses import replace

import pytest

from patchline import config
from patchline.operations import ascend_checks
from patchline.operations.findings import State
from tests.standin import installation


@pytest.fixture
def sdk_home(tmp_path, monkeypatch):
    """The folder of an installed SDK, whose interpreter is ours."""
    home = installation.install(tmp_path)
    monkeypatch.delenv("MX_SDK_HOME", raising=False)
    monkeypatch.setenv("PATCHLINE_ASCEND_SET_ENV", str(home / "set_env.sh"))
    monkeypatch.setenv("PATCHLINE_MINDX_PYTHON", sys.executable)
    monkeypatch.setattr(ascend_checks, "_PYTHON_CHECK", 'print(\'{"version": "3.9.2", "missing": {}}\')')
    return home


def problems():
    return [finding.text for finding in ascend_checks.sdk() if finding.state is State.PROBLEM]


def test_an_installed_sdk_is_reported_with_its_version(sdk_home):
    (finding,) = ascend_checks.sdk()
    assert finding.state is State.OK
    assert f"mxVision: 2.0.4 in {sdk_home}" in finding.text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda home: (home / "version.info").unlink(), "no script sets MX_SDK_HOME"),
        (lambda home: (home / "set_env.sh").write_text(f"export MX_SDK_HOME={home.parent}"), "is MX_SDK_HOME the"),
        (lambda home: (home / "lib/plugins/libmxpi_tensorinfer.so").chmod(0o755), "has mode 0755.* 0640 or less"),
        (lambda home: (home / "lib/libmxbase.so").chmod(0o644), "libmxbase.so: has mode 0644"),
        (lambda home: (home / installation.SCANNER).chmod(0o750), "scanner: has mode 0750.* 0550 or less"),
        (lambda home: (home / installation.SCANNER).unlink(), "gst-plugin-scanner: cannot be read"),
        (lambda home: (home / "lib/libmxbase.so").unlink(), "libmxbase.so: cannot be read"),
    ],
)
def test_a_fault_of_the_sdk_is_reported(sdk_home, damage, message):
    damage(sdk_home)
    (problem,) = problems()
    assert re.search(message, problem)


def test_files_of_another_user_are_reported_once_with_their_number(sdk_home, monkeypatch):
    user = os.getuid()
    monkeypatch.setattr(ascend_checks.os, "getuid", lambda: 4711)
    scanner, plugin = problems()
    assert f"scanner: belongs to user {user}, and InitManager accepts this user only, 4711" in scanner
    assert plugin.endswith("(and 2 more files)")


def test_variables_that_no_script_sets_are_named(sdk_home):
    (sdk_home / "set_env.sh").write_text(f"export MX_SDK_HOME={sdk_home} PYTHONPATH={sdk_home}/python")
    assert [text.split()[0] for text in problems()] == ["GST_PLUGIN_SCANNER", "GST_PLUGIN_PATH"]


def test_a_missing_interpreter_is_named(sdk_home, monkeypatch):
    monkeypatch.setenv("PATCHLINE_MINDX_PYTHON", "python-of-nobody")
    (problem,) = problems()
    assert "python-of-nobody is not there; PATCHLINE_MINDX_PYTHON names the interpreter" in problem


def test_what_the_interpreter_cannot_load_is_named(sdk_home, monkeypatch):
    missing = {
        "libpython3.9.so.1.0": "no such file",
        "StreamManagerApi": "x",
        "mindx.sdk": "y",
        "MxpiDataType_pb2": "z",
    }
    monkeypatch.setattr(ascend_checks, "_PYTHON_CHECK", f"import json; print(json.dumps({{'missing': {missing!r}}}))")
    surfaces, library = problems()
    assert "imports neither StreamManagerApi (x) nor mindx.sdk (y)" in surfaces
    assert "libpython3.9.so.1.0 is missing (no such file)" in library


def test_without_the_sdk_there_is_a_note_and_no_problem(monkeypatch):
    for name in ("MX_SDK_HOME", "PATCHLINE_ASCEND_SET_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(ascend_checks.npu, "read", list)
    category = {"backbone": "b", "layer": "l", "resize": 64, "imagesize": 64}
    (finding,) = ascend_checks.run(config.Config.model_validate({"categories": {"c": category}}))
    assert finding.state is State.NOTE
    assert "needed for --device ascend:N only" in finding.text


def test_a_chip_in_alarm_is_not_tried_even_if_it_is_the_only_one(sdk_home, monkeypatch):
    ill = ascend_checks.npu.Chip(0, 0, "310", "Alarm", 71.0, 1_000_000, 8_000_000)
    well, tried = replace(ill, device=1, health="OK"), []
    monkeypatch.setattr(ascend_checks, "_tries", lambda settings, chips, numbers: tried.append(numbers) or [])
    category = {"backbone": "b", "layer": "l", "resize": 64, "imagesize": 64}
    settings = config.Config.model_validate({"categories": {"c": category}})
    for chips in ([ill], [ill, well], []):
        monkeypatch.setattr(ascend_checks.npu, "read", lambda found=chips: found)
        list(ascend_checks.run(settings))
    assert tried == [[], [1], [0]]


def test_a_chip_in_alarm_is_a_problem(monkeypatch):
    chip = ascend_checks.npu.Chip(1, 0, "310", "Alarm", 71.0, 1_000_000, 8_000_000)
    monkeypatch.setattr(ascend_checks.npu, "read", lambda: [chip])
    _, (finding,) = ascend_checks._chips()
    assert (finding.subject, finding.state) == ("ascend:1", State.PROBLEM)
    assert "leave this chip out" in finding.text
