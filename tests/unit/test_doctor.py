import pytest

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
