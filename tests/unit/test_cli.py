"""The entry point of the command line."""

import errno
import signal
import subprocess
import sys

import pytest

from patchline.cli import main

# Ctrl-C while the modules of the command line are loaded.
LOADS = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what runs in the background
class Finder:
    def find_spec(self, name, *_):
        if name == "patchline.cli":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
runpy.run_module("patchline", run_name="__main__")
"""


@pytest.fixture
def end(monkeypatch):
    """End the command with an error. Return its exit code and what it says."""

    def run(error):
        def app():
            raise error

        said = []
        monkeypatch.setattr(main, "app", app)
        monkeypatch.setattr(main.logs, "configure", lambda _: None)
        monkeypatch.setattr(main.logs, "say", said.append)
        with pytest.raises(SystemExit) as ended:
            main.main()
        return ended.value.code, "".join(said)

    return run


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/srv/pictures"),
            "/srv/pictures: permission denied; run it as a user who may use it",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/srv/up/urls.env"),
            "/srv/up/urls.env: the disk is full; make room on it",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "a file: the disk is full; make room on it"),
    ],
)
def test_what_the_system_refuses_is_one_line(end, error, line):
    assert end(error) == (2, f"patchline: {line}")


def test_another_error_of_the_system_is_no_line_that_hides_it(monkeypatch):
    def app():
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(main, "app", app)
    monkeypatch.setattr(main.logs, "configure", lambda _: None)
    with pytest.raises(OSError, match="Input/output error"):
        main.main()


def test_ctrl_c_ends_a_command_without_a_stack_trace_also_while_it_is_loaded(end):
    assert end(KeyboardInterrupt()) == (130, "")
    loads = subprocess.run([sys.executable, "-c", LOADS], capture_output=True, check=False)
    assert (loads.returncode, loads.stdout, loads.stderr) == (-signal.SIGINT, b"", b"")
