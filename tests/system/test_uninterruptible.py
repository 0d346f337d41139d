"""Processes that SIGKILL does not end, because they sleep in the kernel: every wait for them is bounded."""

import subprocess
from pathlib import Path

import pytest

from patchline.devices import child_process, npu
from patchline.devices.child_process import UnkillableProcesses
from patchline.gate.outputs import ExecOutput, OutputError
from patchline.protocol.gate_messages import ActionRecord
from tests.system.conftest import wait_for

pytestmark = pytest.mark.timeout(60)


def state(pid):
    """The letter of proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_that_sleeps_in_the_kernel_is_given_up_and_its_end_is_noticed(stuck_file):
    process = subprocess.Popen(["cat", stuck_file.path])
    assert stuck_file.in_use.wait(10)
    unkillable = UnkillableProcesses()
    assert not unkillable.kill(process, timeout_s=1.0)
    assert state(process.pid) == "D"
    assert unkillable.pids() == [process.pid]
    stuck_file.release()
    assert process.wait(10) == -9
    assert unkillable.pids() == []


def test_an_arm_that_sleeps_in_the_kernel_is_a_fault_and_gets_no_second_program(stuck_file, tmp_path, monkeypatch):
    monkeypatch.setattr(child_process, "END_TIMEOUT_S", 0.5)
    starts, command = tmp_path / "starts", tmp_path / "arm"
    command.write_text(f"#!/bin/sh\necho $$ >> {starts}\nread action\nexec cat {stuck_file.path}\n")
    command.chmod(0o755)
    arm = ExecOutput([str(command)], timeout_s=5.0)  # in which a busy machine starts it
    ids = {"job_id": "j", "line": "l", "category": "c", "part_id": "p"}
    reject = ActionRecord(**ids, action="reject", because="fail", acted_at=1_800_000_000_000)
    with pytest.raises(OutputError, match="has not answered within 5 s"):
        arm.act(reject)
    with pytest.raises(OutputError, match="was killed and does not end"):
        arm.act(reject)
    (pid,) = starts.read_text().split()
    assert state(pid) == "D"
    stuck_file.release()
    wait_for(lambda: not arm._unkillable.pids())
    arm.check()
    arm.close()


def test_npu_smi_that_hangs_in_the_driver_is_started_once_and_not_again(stuck_file, tmp_path, monkeypatch):
    monkeypatch.setattr(child_process, "END_TIMEOUT_S", 0.5)
    monkeypatch.setattr(npu, "_UNKILLABLE", UnkillableProcesses())
    starts, command = tmp_path / "starts", tmp_path / "npu-smi"
    command.write_text(f"#!/bin/sh\necho $$ >> {starts}\nexec cat {stuck_file.path}\n")
    command.chmod(0o755)
    with pytest.raises(npu.NpuError, match="a card in alarm can hang it"):
        npu.read(str(command), timeout_s=5.0)
    with pytest.raises(npu.NpuError, match="hangs, and cannot be ended"):
        npu.read(str(command), timeout_s=5.0)
    (pid,) = starts.read_text().split()
    assert state(pid) == "D"
    stuck_file.release()
    wait_for(lambda: not npu._UNKILLABLE.pids())
