import sqlite3
from contextlib import closing
from types import SimpleNamespace

import psutil
import pytest

from patchline.protocol import messages
from patchline.protocol.errors import SetupError
from patchline.publisher.spool import Spool, SpoolFullError

NOW = 1_800_000_000_000


def job(number):
    return messages.Job(
        job_id=f"j{number}", line="l", category="c", part_id="p", captured_at=NOW, content_type="image/png"
    )


def test_removed_entries_do_not_reappear_after_the_spool_was_closed(tmp_path):
    first = Spool(tmp_path / "s.sqlite", 10**9, 60.0)
    for number in range(3):
        first.put(job(number), b"pixels", NOW)
    for _ in range(2):
        first.remove(first.oldest())
    assert first.depth() == 1
    first.close()
    second = Spool(tmp_path / "s.sqlite", 10**9, 60.0)
    assert (second.depth(), second.oldest().job.job_id) == (1, "j2")
    second.close()


def test_a_file_that_is_not_a_spool_is_refused(tmp_path):
    (tmp_path / "broken.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(SetupError, match="move a damaged spool to another folder"):
        Spool(tmp_path / "broken.sqlite", 1000, 60.0)


def test_a_spool_reports_its_size_and_age_without_reading_its_images(tmp_path):
    path, size = tmp_path / "deep.sqlite", 100_000
    deep = Spool(path, 10**9, 60.0)
    for number in range(100):
        deep.put(job(number), bytes(size), NOW)
    deep.close()
    again = Spool(path, 10**9, 60.0)
    before = psutil.Process().io_counters().read_chars
    again.put(job(100), bytes(size), NOW)
    assert (again.depth(), again.oldest_age_s(NOW + 1000)) == (101, 1.0)
    assert psutil.Process().io_counters().read_chars - before < 10 * size
    again.close()


def test_a_spool_leaves_free_space_on_its_disk(tmp_path, monkeypatch):
    small = Spool(tmp_path / "small.sqlite", 10**9, 60.0, min_free_bytes=2000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2100))
    small.put(job(0), bytes(100), NOW)
    with pytest.raises(SpoolFullError, match=r"has 2100 bytes free, and publisher.spool_min_free_bytes is 2000"):
        small.put(job(1), bytes(101), NOW)
    assert small.depth() == 1
    small.close()


def test_an_empty_spool_gives_its_disk_space_back(tmp_path):
    deep = Spool(tmp_path / "deep.sqlite", 10**9, 60.0)
    for number in range(50):
        deep.put(job(number), bytes(100_000), NOW)
    while (entry := deep.oldest()) is not None:
        deep.remove(entry)
    assert sum(path.stat().st_size for path in tmp_path.glob("deep.sqlite*")) < 200_000
    deep.close()


def steps_of_an_image(path, depth):
    """Return the steps of SQLite's virtual machine for one image through a spool of a depth: in, counted, and out."""
    spool = Spool(path, 10**9, 60.0)
    for number in range(depth):
        spool.put(job(number), b"pixels", NOW)
    steps = []
    for connection in (spool._synced, spool._unsynced):
        connection.sqlite.set_progress_handler(lambda: steps.append(1), 1)
    spool.put(job("new"), b"pixels", NOW)
    assert spool.depth() == depth + 1
    spool.remove(spool.oldest())
    assert spool.depth() == depth
    for connection in (spool._synced, spool._unsynced):
        connection.sqlite.set_progress_handler(None, 1)
    spool.close()
    return len(steps)


def test_an_image_takes_as_many_steps_in_a_deep_spool_as_in_an_empty_one(tmp_path):
    empty, deep = steps_of_an_image(tmp_path / "empty", 1), steps_of_an_image(tmp_path / "deep", 2000)
    assert empty > 50
    assert deep < empty + 10


def test_the_totals_of_a_spool_of_an_earlier_version_are_counted_when_it_is_opened(tmp_path):
    path = tmp_path / "old.sqlite"
    with closing(sqlite3.connect(path)) as old, old:
        old.execute(
            "CREATE TABLE entries (number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT UNIQUE, job TEXT, image BLOB, "
            "size INTEGER, added_ms INTEGER)"
        )
        row = ("j0", job(0).model_dump_json(), b"pixels", 6, NOW)
        old.execute("INSERT INTO entries (job_id, job, image, size, added_ms) VALUES (?, ?, ?, ?, ?)", row)
    old.close()
    spool = Spool(path, 10, 60.0)
    assert (spool.depth(), spool.oldest().job) == (1, job(0))
    with pytest.raises(SpoolFullError, match="holds 6 of 10 bytes"):
        spool.put(job(1), b"pixels", NOW)
    spool.close()


def test_two_processes_that_share_a_spool_count_the_same(tmp_path):
    one, two = (Spool(tmp_path / "shared.sqlite", 20, 60.0) for _ in range(2))
    one.put(job(0), b"pixels", NOW)
    two.put(job(1), b"pixels", NOW)
    one.put(job(1), b"pixels", NOW)
    assert (one.depth(), two.depth()) == (2, 2)
    one.put(job(2), b"pixels", NOW)
    with pytest.raises(SpoolFullError):
        two.put(job(3), b"pixels", NOW)
    two.remove(two.oldest())
    assert two.depth() == 2
    for spool in (one, two):
        spool.close()
