"""Made the files of this folder with build 5fd44a6. Not run by the tests; see README.md for the commands."""

import base64
import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from broker import topology

from tests.system.conftest import wait_for

pytestmark = pytest.mark.timeout(240)
OUT = Path(os.environ["OUT"])
FOREVER_MS = "1000000000000"  # a deadline that has not passed when the tests run


def record(name, line, queue, count):
    """Take messages from a queue and write them down. The consumer must not take those of the next step."""
    messages = line.messages(queue, count)
    line._consumers.pop(queue).cancel()
    fields = ("message_id", "type", "content_type", "headers", "app_id", "content_encoding")
    documents = [
        {field: getattr(message, field) for field in fields} | {"body": base64.b64encode(message.body).decode()}
        for message in messages
    ]
    (OUT / f"{name}.json").write_text(json.dumps(documents, indent=1) + "\n")


def copy_database(source, target):
    with sqlite3.connect(source) as old, sqlite3.connect(target) as new:
        old.backup(new)
        new.execute("PRAGMA journal_mode=DELETE")


def test_make(line, plant, texture_folder, tmp_path):
    good = sorted((texture_folder / "test" / "good").glob("*.png"))
    scratch = sorted((texture_folder / "test" / "scratch").glob("*.png"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(good[0].read_bytes()[:500])
    publish = ["publish", "--line", "l1", "--category", "brick", "--deadline-ms", FOREVER_MS]

    line.run(*publish, str(good[0]), str(scratch[0]))
    record("jobs", line, topology.JOBS, 2)
    record("announcements", line, topology.gate_queue("l1"), 2)

    line.run(*publish, str(good[1]), str(scratch[1]), str(broken))
    worker = line.worker("--device", "cpu")
    record("verdicts", line, topology.VERDICTS, 3)
    record("dead-letters", line, topology.DEAD, 1)

    gate = line.start("gate", "--line", "l1")  # it has acted on three parts, and expects two
    line.run(*publish, str(good[2]), str(good[3]))
    wait_for(lambda: len([gate.stdout.readline() for _ in range(5)]) == 5)
    worker.terminate()
    worker.wait(40)
    line.run(*publish, str(good[4]), str(good[5]))
    memory = line.folder / "gate-memory" / "l1.sqlite"
    wait_for(lambda: sqlite3.connect(memory).execute("SELECT count(*) FROM expected").fetchone() == (2,))
    gate.terminate()
    gate.wait(30)
    copy_database(memory, OUT / "gate-memory.sqlite")

    spooling = line.start(*publish, str(good[6]), str(scratch[2]), PATCHLINE_AMQP_URL="amqp://127.0.0.1:1")
    assert all('"spooled"' in spooling.stdout.readline() for _ in range(2))
    spooling.terminate()
    spooling.wait(30)
    copy_database(line.folder / "spool" / "l1.brick.sqlite", OUT / "spool.sqlite")

    shutil.copytree(plant / "faiss-index-precision" / "brick", OUT / "brick")
    shutil.copy(plant / "config.yaml", OUT / "config.yaml")
