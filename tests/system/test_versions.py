"""This build reads what build 5fd44a6 wrote, and what a later build may write. `tests/data` says how it was made."""

import base64
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from patchline import config
from patchline.broker.base import Message
from patchline.gate.instance import default_name
from patchline.protocol import messages, topology
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Decision
from tests.queues import JOBS_QUEUE
from tests.system.conftest import records

pytestmark = pytest.mark.timeout(180)
OLD = Path("tests/data/build_5fd44a6")
LATER = {"colour": "red", "x-later": 1}  # headers of a later build


def wait_until_serving(gate):
    """Read the log of a gate until it acts."""
    for line in gate.stderr:
        if json.loads(line)["event"] == "gate is serving":
            return
    pytest.fail("the gate has ended")


def recorded(name):
    """The messages that were recorded."""
    documents = json.loads((OLD / f"{name}.json").read_text())
    return [Message(base64.b64decode(document.pop("body")), **document) for document in documents]


@pytest.fixture
def old_line(line, tmp_path):
    """The line with the configuration and the memory bank of the earlier build."""
    folder = tmp_path / "plant"
    (folder / "faiss-index-precision").mkdir(parents=True)
    shutil.copytree(OLD / "brick", folder / "faiss-index-precision" / "brick")
    (folder / "models").symlink_to(Path("models").resolve())
    text = (OLD / "config.yaml").read_text()
    # The files are as old as the build, and the golden images may have been scored by another processor.
    text = text.replace("categories:", "publisher: {spool_max_age_s: 1000000000.0}\ncategories:")
    (folder / "config.yaml").write_text(text.replace("coreset_ratio", "golden_tolerance: 0.3, coreset_ratio"))
    line.reconfigure(folder)
    return line


@pytest.mark.parametrize("headers", [{}, LATER], ids=["as they were", "with unknown headers"])
def test_a_worker_judges_the_jobs_of_an_earlier_build_with_its_bank(old_line, headers):
    old_line.worker("--device", "cpu")
    for job in recorded("jobs"):
        old_line.broker.publish(topology.JOBS, "l1.brick", replace(job, headers={**job.headers, **headers}))
    verdicts = old_line.verdicts(2)
    assert {verdict.job_id for verdict in verdicts} == {job.message_id for job in recorded("jobs")}
    assert sorted(verdict.decision for verdict in verdicts) == [Decision.FAIL, Decision.PASS]
    assert all(verdict.p_value is None for verdict in verdicts)  # the bank has no held-out images
    assert all(verdict.thresholds.patch is None for verdict in verdicts)


def test_the_verdicts_of_an_earlier_build_are_read():
    verdicts = [messages.parse_verdict(message) for message in recorded("verdicts")]
    assert sorted(verdict.decision for verdict in verdicts) == [Decision.ERROR, Decision.FAIL, Decision.PASS]


@pytest.mark.parametrize("later", [{}, LATER], ids=["as they were", "with unknown fields"])
def test_a_gate_acts_on_the_messages_of_an_earlier_build(old_line, later):
    gate = old_line.start("gate", "--line", "l1", "--dry-run")
    wait_until_serving(gate)
    for part in recorded("announcements"):
        old_line.broker.publish(topology.PARTS, "l1", replace(part, headers={**part.headers, **later}))
    for message in recorded("verdicts"):
        verdict = json.loads(message.body)
        verdict |= later
        body = json.dumps(verdict).encode()
        key = f"l1.brick.{verdict['decision']}"
        for _ in range(2):  # the second one is acted on no more
            old_line.broker.publish(topology.VERDICTS, key, replace(message, body=body, headers=later))
    announced = {part.message_id for part in recorded("announcements")}
    acts = [json.loads(gate.stdout.readline()) for _ in range(3)]
    gate.terminate()
    rest, _ = gate.communicate(timeout=30)
    by_decision = {act["because"]: act["action"] for act in acts}
    assert by_decision == {"pass": "accept", "fail": "reject", "error": "reject"}
    assert {act["job_id"] for act in acts} == {message.message_id for message in recorded("verdicts")}
    assert rest == ""  # the announced parts have until 2058, but gate.max_wait_ms ends before
    with closing(sqlite3.connect(old_line.folder / "gate-memory" / f"l1.{default_name()}.sqlite")) as memory, memory:
        assert {job_id for (job_id,) in memory.execute("SELECT job_id FROM expected")} == announced


def test_a_gate_takes_over_the_memory_of_an_earlier_build_and_repeats_no_act(old_line):
    folder = old_line.folder / "gate-memory"
    folder.mkdir()
    shutil.copy(OLD / "gate-memory.sqlite", folder / "l1.sqlite")
    with closing(sqlite3.connect(folder / "l1.sqlite")) as memory, memory:
        acted = [job_id for (job_id,) in memory.execute("SELECT job_id FROM acted")]
        expected = {job_id for (job_id,) in memory.execute("SELECT job_id FROM expected")}
    assert (len(acted), len(expected)) == (5, 2)
    for message in recorded("verdicts"):  # of parts that the memory has acted on
        assert message.message_id in acted
        key = f"l1.brick.{json.loads(message.body)['decision']}"
        old_line.broker.publish(topology.VERDICTS, key, message)
    gate = old_line.start("gate", "--line", "l1", "--dry-run")
    acts = [json.loads(gate.stdout.readline()) for _ in range(2)]
    old_line.publish_part_and_verdict("new")
    last = json.loads(gate.stdout.readline())
    assert {act["job_id"] for act in acts} == expected
    assert {(act["action"], act["because"]) for act in acts} == {("reject", "no verdict in time")}
    assert (last["job_id"], last["action"]) == ("new", "accept")
    assert not (folder / "l1.sqlite").exists()


def test_the_dead_letters_of_an_earlier_build_are_listed_and_replayed(old_line):
    (letter,) = recorded("dead-letters")
    old_line.broker.publish(topology.DEAD, "l1.brick.error", replace(letter, headers={**letter.headers, **LATER}))
    (listed,) = records(old_line.run("dead-letters", "list").out)
    assert (listed["job_id"], listed["reason"]) == (letter.message_id, "unreadable_image")
    old_line.worker("--device", "cpu")
    assert old_line.run("dead-letters", "replay", "--all").returncode == 0
    assert [verdict.reason for verdict in old_line.verdicts(1)] == ["unreadable_image"]


def test_a_publisher_sends_the_spool_of_an_earlier_build(old_line, texture_folder):
    spool = old_line.folder / "spool"
    spool.mkdir()
    shutil.copy(OLD / "spool.sqlite", spool / "l1.brick.sqlite")
    image = str(next((texture_folder / "train" / "good").glob("*.png")))
    publisher = old_line.run("publish", "--line", "l1", "--category", "brick", image)
    assert publisher.returncode == 0, publisher.err
    jobs = [messages.parse_job(message) for message in old_line.messages(JOBS_QUEUE, 3)]
    assert sorted(job.deadline > 2_700_000_000_000 for job in jobs) == [False, True, True]


def test_a_verdict_in_redis_may_have_unknown_fields(old_line):
    verdict = json.loads(recorded("verdicts")[0].body)
    document = json.dumps(verdict | {"colour": "red", "reason": "a_later_reason"})
    cache = redis.Redis.from_url(old_line.environment["PATCHLINE_REDIS_URL"])
    cache.set(f"patchline:verdict:{verdict['job_id']}", document)
    shown = old_line.run("show", verdict["job_id"])
    assert shown.returncode == 0, shown.err
    assert '"a_later_reason"' in shown.out


def test_a_configuration_of_an_earlier_build_is_loaded_or_its_renamed_key_is_named(tmp_path):
    path = tmp_path / "config.yaml"
    text = (OLD / "config.yaml").read_text()
    path.write_text(text)
    assert config.load(path).worker.drain_s == 20.0
    path.write_text(text.replace("worker: {", "worker: {at_once: 2, "))
    with pytest.raises(SetupError, match=r"worker\.at_once: is now called concurrency; rename it"):
        config.load(path)
