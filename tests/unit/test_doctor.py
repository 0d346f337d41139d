from dataclasses import replace

import pytest

from patchline import config
from patchline.models import atc_operators
from patchline.operations import doctor
from patchline.operations.doctor import State


@pytest.fixture
def sdk_home(tmp_path, monkeypatch):
    """The folder of an installed SDK."""
    (tmp_path / "version.info").write_text("mxVision: 2.0.4\n")
    plugins = tmp_path / "lib" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "libmxpi_tensorinfer.so").write_bytes(b"")
    (plugins / "libmxpi_tensorinfer.so").chmod(0o640)
    monkeypatch.setenv("MX_SDK_HOME", str(tmp_path))
    monkeypatch.setenv("PATCHLINE_MINDX_PYTHON", "sh")
    return tmp_path


def test_an_installed_sdk_is_reported_with_its_version(sdk_home):
    (finding,) = doctor._sdk()
    assert finding.state is State.OK
    assert "mxVision: 2.0.4" in finding.text


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda home, patch: (home / "version.info").unlink(), "is MX_SDK_HOME the folder of the SDK?"),
        (lambda home, patch: patch.setenv("PATCHLINE_MINDX_PYTHON", "python-of-nobody"), "names its interpreter"),
        (lambda home, patch: next((home / "lib/plugins").iterdir()).chmod(0o755), "with mode 0640 or less"),
        (lambda home, patch: patch.setattr(doctor.os, "getuid", lambda: 4711), "owned by this user"),
    ],
)
def test_a_fault_of_the_sdk_is_reported(sdk_home, monkeypatch, damage, message):
    damage(sdk_home, monkeypatch)
    (problem,) = [finding for finding in doctor._sdk() if finding.state is State.PROBLEM]
    assert message in problem.text


def test_a_chip_in_alarm_is_a_problem(monkeypatch):
    chip = doctor.npu.Chip(1, 0, "310", "Alarm", 71.0, 1_000_000, 8_000_000)
    monkeypatch.setattr(doctor.npu, "read", lambda: [chip])
    (finding,) = doctor._chips()
    assert (finding.subject, finding.state) == ("ascend:1", State.PROBLEM)
    assert "leave this chip out" in finding.text


def test_blas_kernels_for_an_older_cpu_are_reported_with_advice(monkeypatch):
    monkeypatch.setattr(doctor.exact_search, "blas_kernels", lambda: ("faiss_cpu:Barcelona", "numpy:SkylakeX"))
    (finding,) = doctor._products(["avx2", "avx512f"])
    assert "in use are faiss_cpu:Barcelona, numpy:SkylakeX; set OPENBLAS_CORETYPE=SkylakeX" in finding.text
    assert list(doctor._products([])) == []
    monkeypatch.setattr(doctor.exact_search, "blas_kernels", lambda: ("faiss_cpu:Haswell", "numpy:SkylakeX"))
    assert list(doctor._products(["avx2", "avx512f"])) == []


def test_models_for_the_ascend_are_held_against_the_operators_of_cann(tmp_path, monkeypatch, sdk_home):
    category = {"backbone": "efficientnet_lite0", "layer": "blocks4+10", "resize": 64, "imagesize": 64}
    paths = {"models": tmp_path / "models"}
    settings = config.Config.model_validate({"categories": {"brick": category}, "paths": paths})
    operators, om = doctor._ascend_models(settings)
    assert (operators.subject, operators.state) == ("efficientnet_lite0_64", State.OK)
    assert operators.text == "the ATC of CANN 5.0.4 has all of its operators"
    assert (om.state, "patchline om efficientnet_lite0 --side 64" in om.text) == (State.NOTE, True)
    table = dict(atc_operators.releases()["5.0.4"].operators)
    del table["Clip"]
    poor = replace(atc_operators.releases()["5.0.4"], operators=table)
    monkeypatch.setattr(atc_operators, "release", lambda cann: poor)
    (finding,) = doctor._ascend_models(settings)
    assert "the ATC of CANN 5.0.4 cannot read it: operator Clip is not in the table" in finding.text
    monkeypatch.delenv("MX_SDK_HOME")
    assert list(doctor._ascend_models(settings)) == []
