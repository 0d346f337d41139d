"""Patchline's commands as processes that are forked from one which has imported Patchline (decision 165).

The import of a command takes up to a second of CPU, and `make test` starts hundreds. A forked command is a process of
its own, with its own environment, folder, files, signals and exit code. It is started by `python -m patchline` instead
if something that acts on the start of Python differs, such as PYTHONPATH or LD_PRELOAD, or if OPENBLAS_NUM_THREADS is
not 1: a process with threads cannot be forked.
"""

import atexit
import functools
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

# Variables that Python, its libraries or the C library read when they start.
_READ_AT_START = ("PYTHON", "LD_", "OMP_", "OPENBLAS_", "MALLOC_", "GLIBC_", "LANG", "LC_", "TZ")
_END_S = 30


def start(arguments, environment=None, folder=None, *, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True):
    """Start a command of Patchline.

    Args:
        arguments: what follows `patchline`.
        environment: all its variables; those of this process by default.
        folder: its working folder; that of this process by default.
        stdout: a file for its output, PIPE, or None for that of this process.
        stderr: a file for its errors, or PIPE.
        text: pipes are read as text.

    Returns:
        A `subprocess.Popen`, or a `Forked` with the same methods.
    """
    environment = dict(os.environ if environment is None else environment)
    arguments, folder = [*map(str, arguments)], str(folder or Path.cwd())
    if _can_fork(environment):
        return Forked(arguments, environment, folder, stdout, stderr, text)
    command = [sys.executable, "-m", "patchline", *arguments]
    return subprocess.Popen(command, env=environment, cwd=folder, stdout=stdout, stderr=stderr, text=text)


def run(arguments, environment=None, folder=None, *, text=True, timeout=None):
    """Run a command of Patchline to its end. Return a `subprocess.CompletedProcess` with its output and errors."""
    process = start(arguments, environment, folder, text=text)
    try:
        output, errors = process.communicate(timeout=timeout)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def _can_fork(environment):
    same = _read_at_start(environment) == _read_at_start(os.environ)
    return os.environ.get("OPENBLAS_NUM_THREADS") == "1" and same and _server() is not None


def _read_at_start(environment):
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


@functools.cache
def _server():
    """Start the process that is forked. Return our end of its socket, or None if it cannot be forked.

    It ends with this process.
    """
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        command = [sys.executable, "-m", "tests.fork_server"]
        process = subprocess.Popen(command, stdin=its, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1])

    def end():
        ours.close()
        process.wait(_END_S)

    atexit.register(end)
    return ours if ours.recv(100) else None


_request_lock = threading.Lock()


class Forked:
    """A forked command, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, arguments, environment, folder, stdout, stderr, text):
        self.args, self.returncode = arguments, None
        ended, its_ended = os.pipe()
        self._ended = os.fdopen(ended, "rb", buffering=0)
        self.stdout, its_stdout = _pipe(sys.__stdout__ if stdout is None else stdout, text)
        self.stderr, its_stderr = _pipe(stderr, text)
        message = json.dumps({"arguments": arguments, "environment": environment, "folder": folder}).encode()
        nothing = os.open(os.devnull, os.O_RDONLY)
        files = [nothing, its_stdout, its_stderr, its_ended]
        try:
            with _request_lock:
                socket.send_fds(_server(), [message], files)
        finally:
            for file in files:
                os.close(file)
        self.pid = int(self._line())
        self._readers, self._texts = None, {}

    def _line(self):
        """The next line of the fork server: the process id, then the exit code."""
        line = b""
        while not line.endswith(b"\n"):
            read = self._ended.read(1)
            assert read, "the fork server has ended"
            line += read
        return line

    def poll(self):
        """Return the exit code, or None before the end."""
        return self._ended_within(0)

    def wait(self, timeout=None):
        """Return the exit code after the end. Raises TimeoutExpired."""
        if self._ended_within(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def _ended_within(self, timeout):
        if self.returncode is None and select.select([self._ended], [], [], timeout)[0]:
            self.returncode = int(self._line())
            self._ended.close()
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(15)

    def kill(self):
        self.send_signal(9)

    def communicate(self, timeout=None):
        """Read the output and the errors until both end. Return them after the end. Raises TimeoutExpired."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._readers is None:
            pipes = {"stdout": self.stdout, "stderr": self.stderr}
            self._texts = dict.fromkeys(pipes)
            self._readers = [threading.Thread(target=self._read, args=pipe, daemon=True) for pipe in pipes.items()]
            for reader in self._readers:
                reader.start()
        for reader in self._readers:
            reader.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
            if reader.is_alive():
                raise subprocess.TimeoutExpired(self.args, timeout)
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return self._texts["stdout"], self._texts["stderr"]

    def _read(self, name, pipe):
        if pipe is not None and not pipe.closed:
            with pipe:
                self._texts[name] = pipe.read()


def _pipe(file, text):
    """Return our end of a pipe and the descriptor of its other end, or None and a descriptor of the file."""
    if file is not subprocess.PIPE:
        return None, os.dup(file.fileno())
    ours, its = os.pipe()
    return os.fdopen(ours, "r" if text else "rb"), its
