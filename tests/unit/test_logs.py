"""The log of a process: nobody waits for its reader."""

import json
import os
import subprocess
import sys
import threading

import pytest

from patchline.cli import job_states
from patchline.cli.job_states import JobStates
from patchline.protocol.messages import Job
from patchline.runtime.log_lines import LogLines

_LOST = "lost {}".format


class Stream:
    """A stream whose file a test may exchange."""

    def __init__(self, descriptor):
        self.descriptor = descriptor

    def fileno(self):
        return self.descriptor


@pytest.fixture
def pipe():
    ends = list(os.pipe())
    yield ends
    os.close(ends[0])  # the other end stays open: a thread may still write to it


@pytest.mark.timeout(20)
def test_whoever_logs_goes_on_while_nobody_reads_the_log_and_the_number_of_lost_lines_is_said_afterwards(pipe):
    lines = LogLines(Stream(pipe[1]), _LOST, most=10)
    lines.put("first")
    assert os.read(pipe[0], 100) == b"first\n"
    for _ in range(30):
        lines.put("x" * 60_000)  # two of them are more than a pipe holds
    lines.flush(0.1)
    read = b""
    while _written(read) + _said(read) < 30:
        read += os.read(pipe[0], 1 << 20)
    assert 10 <= _written(read) <= 12


def _written(read):
    return read.count(b"x" * 60_000)


def _said(read):
    return sum(int(line.split()[1]) for line in read.splitlines(keepends=True) if line[:4] == b"lost" and b"\n" in line)


@pytest.mark.timeout(20)
def test_a_log_whose_disk_is_full_ends_nobody_and_goes_on_when_there_is_space(pipe):
    full = os.open("/dev/full", os.O_WRONLY)
    stream = Stream(full)
    lines = LogLines(stream, _LOST)
    for number in range(3):
        lines.put(f"line {number}")
    lines.flush(5.0)
    stream.descriptor = pipe[1]
    lines.put("space again")
    lines.flush(5.0)
    os.close(full)
    assert os.read(pipe[0], 100) == b"space again\nlost 3\n"


@pytest.mark.timeout(20)
def test_what_follows_a_torn_line_is_a_line_of_its_own(pipe):
    class Torn(LogLines):
        tears = True

        def _write_all(self, descriptor, rest):
            if self.tears:
                self.tears, self._torn = False, True
                os.write(descriptor, rest[:3])
                raise OSError("no space left")
            super()._write_all(descriptor, rest)

    lines = Torn(Stream(pipe[1]), _LOST)
    lines.put("torn apart")
    lines.put("whole")
    lines.flush(5.0)
    assert os.read(pipe[0], 100) == b"tor\nwhole\nlost 1\n"


_LOGGER = """
import structlog, sys
from patchline.runtime import logs
logs.configure()
for number in range(2000):
    structlog.get_logger().info("event", number=number)
"""
_ENDS = {
    "an end": "",
    "an exit": "sys.exit(3)",
    "a crash": "raise ValueError('crashed')",
    "a hard exit": "import os; logs.flush(); os._exit(4)",
}


@pytest.mark.parametrize("end", _ENDS.values(), ids=_ENDS)
def test_the_last_lines_are_in_the_log_however_a_process_ends(end):
    result = subprocess.run([sys.executable, "-c", _LOGGER + end], capture_output=True, text=True, timeout=60)
    assert result.stderr.count('"event": "event"') == 2000  # a stack trace may come between them
    assert '"number": 1999' in result.stderr


@pytest.mark.parametrize("reader", ["is gone", "does not read"])
def test_a_command_ends_with_its_own_exit_code_although_its_log_cannot_be_written(reader, pipe):
    if reader == "is gone":
        os.close(pipe[0])
        pipe[0] = os.open("/dev/null", os.O_RDONLY)
    command = [sys.executable, "-c", _LOGGER + "structlog.get_logger().info('x' * 200_000); sys.exit(3)"]
    assert subprocess.run(command, stderr=pipe[1], timeout=60).returncode == 3


@pytest.mark.timeout(20)
def test_a_flush_in_vain_is_not_repeated(pipe):
    lines = LogLines(Stream(pipe[1]), _LOST)
    lines.put("x" * 200_000)
    lines.flush(0.05)
    done = threading.Event()
    threading.Thread(target=lambda: (lines.flush(60.0), done.set()), daemon=True).start()
    assert done.wait(10.0)


@pytest.mark.timeout(20)
def test_a_publisher_goes_on_while_nobody_reads_its_output_and_says_how_many_states_were_left_out(pipe, monkeypatch):
    job = Job(job_id="j", line="l", category="c", part_id="p", captured_at=1_800_000_000_000, content_type="image/png")
    monkeypatch.setattr(job_states, "_PATIENCE_S", 0.05)
    states = JobStates()
    with os.fdopen(os.dup(pipe[1]), "w") as output:
        monkeypatch.setattr("sys.stdout", output)
        for _ in range(1000):  # more than a pipe holds
            states.print(job, "confirmed", None)
        shown = os.read(pipe[0], 1 << 20).count(b'"state": "confirmed"')
        states.print(job, "refused", "it is too large")
        log, last, _ = os.read(pipe[0], 1 << 20).decode().split("\n")  # the log of a test goes to its output
    assert 100 < shown < 1000
    assert f"left_out={1000 - shown}" in log
    assert (json.loads(last)["state"], json.loads(last)["reason"]) == ("refused", "it is too large")
