"""Gates as real processes, their arms, and what is sent to them."""

import os
import re
import shlex
import sqlite3
import sys
import time
from collections import defaultdict
from contextlib import closing

import pika

from patchline import config
from patchline.protocol import topology
from patchline.protocol.messages import Decision
from patchline.runtime.connections import now_ms
from tests import forked
from tests.gate_input import announcement, message_of, verdict
from tests.system.conftest import records, wait_for

ARM = """
import json, os, sys
for line in sys.stdin:
    with open(sys.argv[1], "a") as log:
        log.write(line)
    {fault}
    print(line, end="", flush=True)
"""
HOUR_MS = 3_600_000
IDS = {"line": "l1", "category": "brick"}


class Arm:
    """The program of an arm. It appends what it is told to a log. `fault` is a statement before its answer."""

    def __init__(self, folder, name, fault="pass"):
        folder.mkdir(exist_ok=True)
        self.log = folder / f"{name}.jsonl"
        self.log.touch()
        script = folder / f"{name}.py"
        script.write_text(ARM.format(fault=fault))
        self.command = shlex.join([sys.executable, str(script), str(self.log)])

    def acts(self):
        return records(complete_lines(self.log))

    def job_ids(self):
        return {act["job_id"] for act in self.acts()}


def complete_lines(file):
    """Return the lines of a file that another process writes, without one of which the end is missing yet."""
    return "".join(file.read_text().rpartition("\n")[:2])


def configure(line, folder, **gate):
    """Change settings of the gate."""
    folder.mkdir(exist_ok=True)
    settings = line.settings.gate.model_copy(update=gate)
    paths = line.settings.paths.model_copy(update={"gate": folder / "gate-memory"})
    line.settings = line.settings.model_copy(update={"gate": settings, "paths": paths})
    config.save(line.settings, folder / "config.yaml")
    line.folder = folder


def start(line, arm, tmp_path, name="gate", options=(), **environment):
    """Start a gate; its log is a file with the name."""
    command = ["gate", "--line", "l1", "--exec", arm.command, *options, "--config", line.folder / "config.yaml"]
    log = tmp_path / f"{name}.log"
    with log.open("a") as errors:
        process = forked.start(command, os.environ | line.environment | environment, stdout=None, stderr=errors)
    line.on_exit(process)
    process.log = log
    return process


def role(process):
    """Return the role that a gate logged last, or None. "The gate is stuck" is not a role."""
    roles = re.findall(r'"event": "gate is (\w+)"', process.log.read_text())
    return roles[-1] if roles else None


def is_serving(process):
    return role(process) == "serving"


def stands_by(process):
    """Return True if a gate leaves the arm to another one, and hears of parts."""
    return "gate is standby" in process.log.read_text()


def announce(line, job_id, patience_ms=2000, captured_at=None, **fields):
    part = announcement(job_id, captured_at or now_ms(), patience_ms, **IDS | fields)
    line.broker.publish(topology.PARTS, "l1", message_of(part))


def decide(line, job_id, decision=Decision.PASS, decided_at=None, line_name="l1", **fields):
    message = message_of(verdict(job_id, decided_at or now_ms(), decision, **IDS | {"line": line_name} | fields))
    line.broker.publish(topology.VERDICTS, f"l1.brick.{decision}", message)


def feed(line, numbers, seconds=0.05):
    """Announce parts and publish their verdicts: every third fails, every seventh gets no verdict."""
    for number in numbers:
        job_id = f"j{number}"
        announce(line, job_id)
        if number % 7:
            decide(line, job_id, Decision.FAIL if number % 3 == 0 else Decision.PASS)
        time.sleep(seconds)


def assert_each_part_has_one_action(arms, numbers):
    """Every part was acted on, and none in two ways. An action may come twice after a fault."""
    by_job = defaultdict(set)
    for arm in arms:
        for act in arm.acts():
            by_job[act["job_id"]].add(act["action"])
    assert by_job.keys() == {f"j{number}" for number in numbers}
    assert {job_id: actions for job_id, actions in by_job.items() if len(actions) > 1} == {}
    return {job_id: actions.pop() for job_id, actions in by_job.items()}


def all_told(arms, count):
    return lambda: len({job_id for arm in arms for job_id in arm.job_ids()}) >= count


def two_gates(line, tmp_path):
    """Start a gate that serves and one that stands by. Return both, and their arms."""
    arms = [Arm(tmp_path / "arms", name) for name in ("first", "second")]
    gates = [start(line, arms[0], tmp_path, "first")]
    wait_for(lambda: is_serving(gates[0]))
    gates.append(start(line, arms[1], tmp_path, "second"))
    wait_for(lambda: stands_by(gates[1]))
    return gates, arms


def delete_queue(line, *names):
    with closing(pika.BlockingConnection(pika.URLParameters(line.environment["PATCHLINE_AMQP_URL"]))) as connection:
        for name in names:
            connection.channel().queue_delete(topology.gate_queue("l1", name))


def saved(memory, table):
    with closing(sqlite3.connect(memory)) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
