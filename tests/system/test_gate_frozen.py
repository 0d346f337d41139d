"""Two gates of a line: one is held up by its arm, by SIGSTOP before an act, or by the reader of its output."""

import os
import signal
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.system.conftest import records, wait_for
from tests.system.gates import Arm, all_told, announce, configure, decide, feed, is_serving, role, stands_by, start

pytestmark = pytest.mark.timeout(120)
SHORT = {"lease_ms": 1000, "act_timeout_ms": 6000}
# Python runs this at its start. The gate stops itself when the intent is written, as a debugger or a hypervisor may.
FREEZE = """
import os, signal
from patchline.gate.journal import Journal

write_intent = Journal.write_intent

def freeze(self, record):
    write_intent(self, record)
    if record.job_id == "frozen":
        os.kill(os.getpid(), signal.SIGSTOP)

Journal.write_intent = freeze
"""


def two_gates(line, tmp_path, fault="pass", **environment):
    """Start a gate that serves, with a fault of its arm or a changed environment, and one that stands by."""
    configure(line, tmp_path, **SHORT)
    arms = [Arm(tmp_path / "arms", "first", fault), Arm(tmp_path / "arms", "second")]
    gates = [start(line, arms[0], tmp_path, "first", **environment)]
    wait_for(lambda: is_serving(gates[0]))
    gates.append(start(line, arms[1], tmp_path, "second"))
    wait_for(lambda: stands_by(gates[1]))
    return gates, arms


def actions(arm):
    return [(act["job_id"], act["action"]) for act in arm.acts()]


def test_a_gate_whose_arm_is_stuck_gives_up_the_lease_and_the_other_one_does_the_same_act(line, tmp_path):
    stuck = "import time; time.sleep(600 if 'stuck' in line else 0)"
    gates, arms = two_gates(line, tmp_path, stuck)
    announce(line, "stuck", patience_ms=30_000)
    decide(line, "stuck")
    wait_for(arms[0].acts)
    wait_for(lambda: is_serving(gates[1]))
    wait_for(arms[1].acts)
    assert actions(arms[0]) == actions(arms[1]) == [("stuck", "accept")], "the first arm may have done it: never both"
    assert "the gate is stuck, another one may take over" in gates[0].log.read_text()
    feed(line, range(1, 10), seconds=0.01)
    wait_for(all_told(arms[1:], 10))
    wait_for(lambda: "the gate makes steps again" in gates[0].log.read_text())
    wait_for(lambda: role(gates[0]) == "standby")
    feed(line, range(10, 20), seconds=0.01)
    wait_for(all_told(arms[1:], 20))
    assert actions(arms[0]) == [("stuck", "accept")]


def test_a_gate_that_was_frozen_between_intent_and_act_lets_the_act_of_the_other_one_stand(line, tmp_path):
    faults = tmp_path / "faults"
    faults.mkdir()
    (faults / "sitecustomize.py").write_text(FREEZE)
    gates, arms = two_gates(line, tmp_path, PYTHONPATH=os.pathsep.join([str(faults), str(Path.cwd())]))
    announce(line, "frozen", patience_ms=30_000)
    decide(line, "frozen")
    wait_for(arms[1].acts)
    assert actions(arms[1]) == [("frozen", "accept")]
    announce(line, "silent", patience_ms=500)  # the first gate has not heard of it
    wait_for(all_told(arms, 2))
    gates[0].send_signal(signal.SIGCONT)
    wait_for(lambda: role(gates[0]) == "standby")
    feed(line, range(1, 10), seconds=0.01)
    wait_for(all_told(arms, 11))
    assert arms[0].acts() == [], "its intent was an act of the past"
    gates[1].kill()
    wait_for(lambda: is_serving(gates[0]))
    feed(line, range(10, 20), seconds=0.01)
    wait_for(all_told(arms, 21))
    # A gate that takes over repeats an act of which the killed one had not told it yet.
    assert not arms[0].job_ids() & {"frozen", "silent"}
    assert len({(act["job_id"], act["action"]) for arm in arms for act in arm.acts()}) == 21, "never both actions"


def test_a_gate_acts_although_nobody_reads_its_full_log(line, tmp_path):
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 65_536)
    os.set_blocking(writer, True)
    configure(line, tmp_path, **SHORT)
    arm = Arm(tmp_path / "arms", "arm")
    command = [sys.executable, "-m", "patchline", "gate", "--line", "l1", "--exec", arm.command]
    command += ["--config", str(line.folder / "config.yaml")]
    gate = subprocess.Popen(command, env=os.environ | line.environment, stderr=writer)
    line.on_exit(gate)
    os.close(writer)
    feed(line, range(1, 40), seconds=0.01)
    wait_for(all_told([arm], 39))
    gate.terminate()
    assert gate.wait(20) == 0
    os.close(reader)


def test_actions_whose_reader_has_ended_are_printed_by_the_next_gate(line, tmp_path):
    configure(line, tmp_path, **SHORT)
    gate = line.start("gate", "--line", "l1", "--dry-run")
    announce(line, "read", patience_ms=30_000)
    decide(line, "read")
    assert records(gate.stdout.readline())[0]["job_id"] == "read"
    gate.stdout.close()
    announce(line, "unread", patience_ms=30_000)
    decide(line, "unread")
    log = ""
    while "standard output cannot be written" not in log:
        log += gate.stderr.readline()
    gate.terminate()
    log += gate.stderr.read()
    assert (gate.wait(20), "Traceback" in log, "BrokenPipe" in log) == (0, False, False), log
    again = line.start("gate", "--line", "l1", "--dry-run")
    with closing(again.stdout):
        (action,) = records(again.stdout.readline())
    assert (action["job_id"], action["action"]) == ("unread", "accept")
