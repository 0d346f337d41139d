import pytest

from patchline.operations import doctor
from patchline.operations.doctor import State


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder like an installed SDK."""
    (tmp_path / "version.info").write_text("mxVision: 2.0.4\n")
    plugins = tmp_path / "lib" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "libmxpi_tensorinfer.so").write_bytes(b"")
    (plugins / "libmxpi_tensorinfer.so").chmod(0o640)
    monkeypatch.setenv("MX_SDK_HOME", str(tmp_path))
    monkeypatch.setenv("PATCHLINE_MINDX_PYTHON", "sh")
    return tmp_path


def test_an_sdk_that_is_installed_well_is_named_with_its_version(home):
    (found,) = doctor._sdk()
    assert found.state is State.OK
    assert "mxVision: 2.0.4" in found.text


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda home, patch: (home / "version.info").unlink(), "is MX_SDK_HOME the folder of the SDK?"),
        (lambda home, patch: patch.setenv("PATCHLINE_MINDX_PYTHON", "python-of-nobody"), "names its interpreter"),
        (lambda home, patch: next((home / "lib/plugins").iterdir()).chmod(0o755), "with mode 0640 or less"),
        (lambda home, patch: patch.setattr(doctor.os, "getuid", lambda: 4711), "owned by this user"),
    ],
)
def test_the_pitfalls_of_an_sdk_are_found(home, monkeypatch, damage, said):
    damage(home, monkeypatch)
    (problem,) = [finding for finding in doctor._sdk() if finding.state is State.PROBLEM]
    assert said in problem.text


def test_a_chip_in_alarm_is_to_be_left_out(monkeypatch):
    chip = doctor.npu.Chip(1, 0, "310", "Alarm", 71.0, 1_000_000, 8_000_000)
    monkeypatch.setattr(doctor.npu, "read", lambda: [chip])
    (found,) = doctor._chips()
    assert (found.subject, found.state) == ("ascend:1", State.PROBLEM)
    assert "leave this chip out" in found.text


def test_a_blas_that_takes_the_cpu_for_an_old_one_is_told_what_it_is(monkeypatch):
    monkeypatch.setattr(doctor.exact_search, "blas_kernels", lambda: ("faiss_cpu:Barcelona", "numpy:SkylakeX"))
    (found,) = doctor._products(["avx2", "avx512f"])
    assert "in use are faiss_cpu:Barcelona, numpy:SkylakeX; set OPENBLAS_CORETYPE=SkylakeX" in found.text
    assert list(doctor._products([])) == []
    monkeypatch.setattr(doctor.exact_search, "blas_kernels", lambda: ("faiss_cpu:Haswell", "numpy:SkylakeX"))
    assert list(doctor._products(["avx2", "avx512f"])) == []
