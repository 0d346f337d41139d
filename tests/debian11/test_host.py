"""A `mindx_host` in a root of Debian 11 (Python 3.9.2), with the stand-in of the SDK, and its worker outside of it.

Needs root and debootstrap: `make test-debian11`.
"""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from patchline.devices import mindx_host
from tests.ascend import test_ascend
from tests.system import conftest

pytestmark = pytest.mark.timeout(600)
empty_servers, line = conftest.empty_servers, conftest.line
ascend_plant, sdk = test_ascend.ascend_plant, test_ascend.sdk
ROOT, REPOSITORY = Path("tools/debian11.sh").resolve(), "/repository"
PACKAGES = ":".join(f"{REPOSITORY}/{folder}" for folder in (".debian11/packages", "tests/standin/python"))


def in_debian11(*command, shared=(), **environment):
    """Start a command in Debian 11, in a group of its own."""
    variables = os.environ | {"SHARED": ":".join(map(str, shared))} | environment
    return subprocess.Popen(
        [str(ROOT), *command], env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )


@pytest.fixture
def sockets(tmp_path, ascend_plant, sdk):
    """A folder with the socket of a host that runs in Debian 11, from a copy of the one file."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(mindx_host.__file__, tmp_path / "mindx_host.py")
    options = ["--listen", str(folder / "ascend0.sock"), "--device", "0", "--models", str(ascend_plant / "models")]
    command = ["env", f"PYTHONPATH={PACKAGES}", "python3.9", str(tmp_path / "mindx_host.py"), *options]
    process = in_debian11(*command, shared=[tmp_path, ascend_plant])
    try:
        assert any(b"mindx_host: device 0" in text for text in process.stderr), "it ended"
        yield folder
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)


def test_the_system_is_that_of_the_sdks_time():
    versions = "import platform, sys; print(sys.version.split()[0], *platform.libc_ver())"
    output, errors = in_debian11("python3.9", "-c", versions).communicate(timeout=600)
    assert output.decode().split() == ["3.9.2", "glibc", "2.31"], errors.decode()


@pytest.mark.parametrize("surface", ["stream", "base"])
def test_a_worker_gets_every_verdict_from_a_host_in_debian_11_with_every_kind_of_fault(
    line, ascend_plant, sdk, sockets, surface
):
    variables = {"PATCHLINE_MINDX_SURFACE": surface, "PATCHLINE_MINDX_SOCKETS": str(sockets)}
    test_ascend.drive_500_images(line, ascend_plant, sdk, surface, test_ascend.sdk_variables() | variables)
