"""One contract for every output of a gate, and what only the program of an arm can do wrong."""

import fcntl
import itertools
import json
import os
import sys
import time

import pytest

from patchline.gate.dry_run_output import DryRunOutput
from patchline.gate.outputs import ExecOutput, MemoryOutput, OutputError, OutputState
from patchline.gate.plc_output import PlcOutput
from patchline.plc.register_map import RESULT
from patchline.plc.station import Station
from patchline.protocol.errors import SetupError
from patchline.protocol.gate_messages import ActionRecord
from tests.plc_memory import LAYOUT, Plc

pytestmark = pytest.mark.timeout(60)
ARM = """
import json, sys
for line in sys.stdin:
    action = json.loads(line)
    with open(sys.argv[1], "a") as file:
        file.write(line)
    print("moving", flush=True)
    {answer}
"""
ACKNOWLEDGE = "print(line, end='', flush=True)"


NUMBERS = {"first": 1, "second": 2, "j0": 10, "j1": 11, "j2": 12, "j": 13}


def action(job_id, verb="reject"):
    return ActionRecord(
        job_id=job_id,
        line="l",
        category="c",
        part_id="p",
        action=verb,
        because="fail",
        acted_at=1_800_000_000_000,
        number=NUMBERS[job_id],
    )


class Exec:
    """The program of an arm, which writes what it was told into a file."""

    def __init__(self, folder, answer=ACKNOWLEDGE, timeout_s=30.0):
        self.log = folder / "arm.jsonl"
        self.log.touch()
        command = [sys.executable, "-c", ARM.format(answer=answer), str(self.log)]
        self.output = ExecOutput(command, timeout_s)

    def told(self):
        return [json.loads(line)["job_id"] for line in self.log.read_text().splitlines()]

    def break_(self):
        self.output._process.kill()
        self.output._process.wait()

    def mend(self):
        """The next call starts the program again."""


class DryRun:
    """A pipe, and its reader."""

    def __init__(self, _=None):
        self.text = b""
        self.reading, self.writing = os.pipe()
        self.output = DryRunOutput(self.writing)

    def told(self):
        os.set_blocking(self.reading, False)
        try:
            while piece := os.read(self.reading, 65_536):
                self.text += piece
        except BlockingIOError:
            pass
        return [json.loads(line)["job_id"] for line in self.text.splitlines()]

    def break_(self):
        self.told()
        os.close(self.reading)

    def mend(self):
        os.close(self.writing)
        self.reading, self.writing = os.pipe()
        self.output._descriptor = self.writing


class Memory:
    def __init__(self, _):
        self.output = MemoryOutput()

    def told(self):
        return [record.job_id for record in self.output.actions]

    def break_(self):
        self.output.fault = "broken"

    def mend(self):
        self.output.fault = None


class PlcArm:
    """A PLC in memory that remembers the parts whose slots were written."""

    def __init__(self, _):
        self.plc, self.numbers = Plc(), []
        write = self.plc.memory.write
        self.plc.memory.write = lambda start, words: (write(start, words), self.record(words))
        self.output = PlcOutput(Station(self.plc.memory, LAYOUT, itertools.count().__next__), 0.1, None, time.monotonic)

    def record(self, words):
        if len(words) == RESULT.words:
            self.numbers.append(RESULT.unpack(words)["number"])

    def told(self):
        return [name for number in self.numbers for name, known in NUMBERS.items() if known == number]

    def break_(self):
        self.plc.memory.fault = "frozen"

    def mend(self):
        self.plc.memory.fault = None


@pytest.fixture(params=[Exec, DryRun, Memory, PlcArm])
def arm(request, tmp_path):
    arm = request.param(tmp_path)
    yield arm
    arm.output.close()


def test_an_action_that_returns_has_reached_the_arm(arm):
    for number in range(3):
        arm.output.act(action(f"j{number}", "accept"))
        assert arm.told()[-1] == f"j{number}"
    arm.output.check()


def test_an_arm_that_works_takes_signs_of_life(arm):
    for busy in (False, True):
        arm.output.tell(OutputState(busy=busy, counts={"missed": 1}))


def test_an_arm_that_is_out_of_order_fails_the_action_and_can_come_back(arm):
    arm.output.act(action("first"))
    arm.break_()
    with pytest.raises(OutputError):
        arm.output.act(action("second"))
    arm.mend()
    arm.output.act(action("second"))
    assert arm.told() == ["first", "second"]


def test_an_output_can_be_closed_twice(arm):
    arm.output.close()
    arm.output.close()


@pytest.mark.parametrize("answer", ["print(action['job_id'], flush=True)", "print(json.dumps(action), flush=True)"])
def test_a_bare_job_id_and_a_json_object_acknowledge(tmp_path, answer):
    arm = Exec(tmp_path, answer)
    arm.output.act(action("j"))
    arm.output.close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("print('another-job', flush=True)", "not answered within 0.5 s"),
        ("pass", "not answered within 0.5 s"),
        ("print(json.dumps({'job_id': action['job_id'], 'error': 'bin full'}), flush=True)", "reports: bin full"),
        ("sys.exit(3)", "has ended, or closed its output"),
    ],
)
def test_an_arm_that_does_not_acknowledge_is_a_fault_and_its_program_is_ended(tmp_path, answer, message):
    arm = Exec(tmp_path, answer, timeout_s=0.5 if "within" in message else 30.0)
    process = arm.output._process
    with pytest.raises(OutputError, match=message):
        arm.output.act(action("j"))
    assert process.poll() is not None
    arm.output.close()


def test_the_end_of_an_idle_program_is_noticed_and_it_is_started_again(tmp_path):
    arm = Exec(tmp_path)
    arm.break_()
    with pytest.raises(OutputError, match="ended with exit code -9"):
        arm.output.check()
    arm.output.check()
    arm.output.act(action("j"))
    assert arm.told() == ["j"]
    arm.output.close()


def test_a_program_that_cannot_be_started_is_named():
    with pytest.raises(SetupError, match="--exec: /nowhere/arm: cannot be started"):
        ExecOutput(["/nowhere/arm"], 1.0)


def has_room(output):
    try:
        output.check()
    except OutputError:
        return False
    return True


def test_a_dry_run_whose_reader_stops_fails_without_a_wait_and_goes_on_when_it_reads_again():
    arm = DryRun()
    fcntl.fcntl(arm.writing, fcntl.F_SETPIPE_SZ, 4096)
    told, started = 0, time.monotonic()
    while has_room(arm.output):
        arm.output.act(action("j"))
        told += 1
    with pytest.raises(OutputError, match="its reader does not read"):
        arm.output.act(action("j"))
    with pytest.raises(OutputError, match="its reader does not read"):
        arm.output.check()
    assert time.monotonic() - started < 30.0  # a write would wait for ever
    assert arm.told() == ["j"] * told
    arm.output.check()
    arm.output.act(action("first"))
    assert arm.told() == ["j"] * told + ["first"]


def test_a_line_that_is_longer_than_the_pipe_is_completed_before_the_next_one():
    arm = DryRun()
    room = fcntl.fcntl(arm.writing, fcntl.F_SETPIPE_SZ, 8192)
    with pytest.raises(OutputError, match="its reader does not read"):
        arm.output.act(action("j").model_copy(update={"part_id": "p" * 2 * room}))
    arm.text += os.read(arm.reading, room)
    with pytest.raises(OutputError, match="its reader does not read"):
        arm.output.act(action("first"))
    arm.text += os.read(arm.reading, room)
    arm.output.act(action("first"))
    assert arm.told() == ["j", "first"]
