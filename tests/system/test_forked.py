"""A command that the tests fork is like one that Python starts."""

import os
import signal
import subprocess
import sys

import pytest

from tests import forked
from tests.conftest import CONFIG

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")


@pytest.mark.parametrize(
    "arguments", [("--help",), ("topology",), ("worker", "--device"), ("publish", "--line", "\udcff", "x")], ids=str
)
def test_output_errors_and_exit_code_are_the_same(arguments, tmp_path):
    environment = os.environ | {"PATCHLINE_LOG_LEVEL": "debug", "COLUMNS": "70"}
    ran = forked.run(arguments, environment, tmp_path)
    command = [sys.executable, "-m", "patchline", *arguments]
    expected = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (expected.returncode, expected.stdout, expected.stderr)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGKILL, -9)])
def test_a_signal_ends_a_forked_command_only(number, code, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    (tmp_path / "captured").mkdir()
    command = ["publish", "--line", "l1", "--category", "brick", "--watch", "captured"]
    environment = os.environ | {"PATCHLINE_AMQP_URL": "amqp://127.0.0.1:1"}
    processes = [forked.start(command, environment, folder) for folder in (tmp_path, copy(tmp_path))]
    for process in processes:
        assert isinstance(process, forked.Forked)
        while "watching folder" not in (line := process.stderr.readline()):
            assert line
    processes[0].send_signal(number)
    assert processes[0].wait(30) == code
    assert processes[1].poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        processes[1].wait(0.1)
    processes[1].kill()
    for process in processes:
        process.communicate(timeout=30)


def copy(folder):
    """Return a second folder like this one: two publishers of one folder are not allowed."""
    second = folder / "second"
    (second / "captured").mkdir(parents=True)
    (second / "config.yaml").write_text(CONFIG)
    return second


@pytest.mark.parametrize("name", ["PYTHONPATH", "LD_PRELOAD", "OMP_NUM_THREADS", "LC_ALL"])
def test_a_variable_that_is_read_when_python_starts_starts_python(name):
    process = forked.start(["--help"], os.environ | {name: "something"})
    assert isinstance(process, subprocess.Popen)
    process.communicate(timeout=60)
