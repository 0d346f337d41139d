import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random
from types import SimpleNamespace

import psutil
import pytest

from patchline.protocol import messages
from patchline.protocol.errors import DamagedError
from patchline.publisher.spool import Spool, SpoolFullError
from patchline.publisher.spool_file import SpoolError
from patchline.publisher.taken_images import Content, TakenImages
from patchline.publisher.watched_folder import Signature
from patchline.runtime import damage, uptime

NOW = 1_800_000_000_000
PAGE = 4096


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


def pages_of(path):
    """Return the pages of a file of SQLite."""
    data = path.read_bytes()
    return [data[start : start + PAGE] for start in range(0, len(data), PAGE)]


def filled(path, count=40, size=20_000):
    """Return the images of a spool that was filled and closed, by job id."""
    spool = Spool(path, 10**9, 60.0)
    images = {f"j{number}": bytes([number]) * size for number in range(count)}
    for number in range(count):
        spool.put(job(number), images[f"j{number}"], NOW)
    spool.close()
    return images


def emptied(spool):
    """Return what is left in a spool, by job id, in order."""
    images = {}
    while (entry := spool.oldest()) is not None:
        images[entry.job.job_id] = entry.image
        spool.remove(entry)
    return images


def test_a_file_that_is_not_a_spool_is_set_aside_and_a_new_one_is_used(tmp_path, capsys):
    path = tmp_path / "l.c.sqlite"
    path.write_bytes(b"not a database" * 1000)
    spool = Spool(path, 1000, 60.0)
    spool.put(job(0), b"pixels", NOW)
    assert emptied(spool) == {"j0": b"pixels"}
    (aside,) = damage.set_aside_files(tmp_path, "l")
    assert aside.read_bytes().startswith(b"not a database")
    log = capsys.readouterr().out
    assert (log.count("set aside"), "file is not a database" in log) == (1, True)
    spool.close()


@pytest.mark.parametrize("damaged", [b"\0" * 4096, b"\xa5" * 4096], ids=["zeros", "garbage"])
def test_of_a_spool_with_a_damaged_page_every_other_image_is_used_in_order(tmp_path, damaged):
    path = tmp_path / "l.c.sqlite"
    images = filled(path)
    hit = next(number for number, page in enumerate(pages_of(path)) if page.count(7) >= PAGE - 4)
    with path.open("r+b") as file:
        file.seek(hit * PAGE)
        file.write(damaged)
    spool = Spool(path, 10**9, 60.0)
    rest = emptied(spool)
    assert rest == images | {"j7": None}
    assert list(rest) == list(images)
    assert len(damage.set_aside_files(tmp_path, "l")) == 1
    spool.put(job(99), b"pixels", NOW)
    assert (spool.depth(), spool.oldest().image) == (1, b"pixels")
    spool.close()


def test_an_image_after_damage_in_the_file_that_counts_entries_is_not_lost(tmp_path):
    path = tmp_path / "l.c.sqlite"
    filled(path, 3)
    spool = Spool(path, 10**9, 60.0)
    assert len(emptied(spool)) == 3
    spool.close()
    path.write_bytes(b"\xa5" * PAGE * 4)
    again = Spool(path, 10**9, 60.0)
    again._last_removed = 3  # as if it had been damaged in between
    again.put(job(5), b"pixels", NOW)
    assert list(emptied(again)) == ["j5"]
    again.close()


def test_an_entry_whose_job_makes_no_sense_is_left_in_the_damaged_file_and_the_others_are_used(tmp_path):
    path = tmp_path / "l.c.sqlite"
    images = filled(path, 5, 100)
    with closing(sqlite3.connect(path)) as sqlite, sqlite:
        sqlite.execute("UPDATE entries SET job = CAST(x'7bff7d' AS TEXT) WHERE job_id = 'j2'")
    spool = Spool(path, 10**9, 60.0)
    del images["j2"]
    assert emptied(spool) == images
    (aside,) = damage.set_aside_files(tmp_path, "l")
    with closing(sqlite3.connect(aside)) as sqlite:
        assert sqlite.execute("SELECT count(*) FROM entries WHERE job_id = 'j2'").fetchone() == (1,)
    spool.close()


def test_a_damaged_spool_that_another_process_uses_is_left_alone(tmp_path):
    path = tmp_path / "l.c.sqlite"
    filled(path, 2, 100)
    with closing(sqlite3.connect(path)) as sqlite, sqlite:
        sqlite.execute("UPDATE entries SET job = 'x'")
    one, other = (Spool(path, 10**9, 60.0) for _ in range(2))
    with pytest.raises(DamagedError, match="another process uses it; end every publisher") as error:
        one.oldest()
    assert error.value.exit_code == 78
    other.close()
    assert one.oldest() is None
    one.close()


def test_a_damaged_spool_that_cannot_be_replaced_says_what_to_do(tmp_path, monkeypatch):
    path = tmp_path / "l.c.sqlite"
    filled(path, 2, 100)
    damaged = b"\xa5" * PAGE * 4
    path.write_bytes(damaged)

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("patchline.publisher.spool_file._copy", full)
    with pytest.raises(DamagedError, match=r"cannot be saved \(database or disk is full\); make its folder writable"):
        Spool(path, 10**9, 60.0)
    assert path.read_bytes() == damaged


def test_a_crash_while_a_damaged_spool_is_replaced_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "l.c.sqlite"
    images = filled(path, 5, 100)
    with closing(sqlite3.connect(path)) as sqlite, sqlite:
        sqlite.execute("UPDATE entries SET job = 'x' WHERE job_id = 'j2'")
    replace = Path.replace

    def crash_at_last(self, target):
        if Path(target) == path:
            raise KeyboardInterrupt
        return replace(self, target)

    crashed = Spool(path, 10**9, 60.0)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", crash_at_last)
        with pytest.raises(KeyboardInterrupt):
            emptied(crashed)
    os.close(crashed._file._lock)  # as the kernel does
    assert not path.exists()
    spool = Spool(path, 10**9, 60.0)
    del images["j2"]
    assert emptied(spool) == images
    spool.close()


def test_a_spool_reports_its_size_and_age_without_reading_its_images(tmp_path):
    path, size = tmp_path / "deep.sqlite", 100_000
    deep = Spool(path, 10**9, 60.0)
    for number in range(100):
        deep.put(job(number), bytes(size), NOW)
    deep.close()
    again = Spool(path, 10**9, 60.0, boot_s=lambda: uptime.boot_s() + 30)
    before = psutil.Process().io_counters().read_chars
    again.put(job(100), bytes(size), NOW)
    assert (again.depth(), again.oldest_age_s() >= 30) == (101, True)
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


def test_a_spool_whose_folder_was_removed_says_so(tmp_path):
    spool = Spool(tmp_path / "spool" / "l.sqlite", 10**9, 60.0)
    shutil.rmtree(tmp_path / "spool")
    with pytest.raises(SpoolError):
        spool.put(job(0), b"pixels", NOW)
    spool.close()


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
    for connection in (spool._file._synced, spool._file._unsynced):
        connection.sqlite.set_progress_handler(lambda: steps.append(1), 1)
    spool.put(job("new"), b"pixels", NOW)
    assert spool.depth() == depth + 1
    spool.remove(spool.oldest())
    assert spool.depth() == depth
    for connection in (spool._file._synced, spool._file._unsynced):
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


def test_the_age_of_an_entry_goes_on_over_a_restart_of_its_process_and_starts_anew_with_the_machine(tmp_path):
    now = SimpleNamespace(s=1000.0)

    def opened(boot_id):
        return Spool(tmp_path / "s.sqlite", 10**9, 60.0, boot_s=lambda: now.s, boot_id=boot_id)

    first = opened("first")
    first.put(job(0), b"pixels", NOW)
    first.close()
    now.s += 61
    again = opened("first")
    assert (again.oldest_age_s(), again.is_too_old(again.oldest())) == (61.0, True)
    again.close()
    now.s = 50.0
    rebooted = opened("second")
    rebooted.put(job(1), b"pixels", NOW)
    now.s += 61
    assert (rebooted.oldest_age_s(), rebooted.is_too_old(rebooted.oldest())) == (61.0, True)
    rebooted.close()
    now.s -= 2
    last = opened("second")
    assert [last.is_too_old(last.oldest(after=number)) for number in range(2)] == [False, False]
    last.close()


def test_an_image_with_a_flipped_byte_is_not_judged_as_if_it_were_the_one_that_was_taken(tmp_path):
    path = tmp_path / "l.c.sqlite"
    images = filled(path, 5)
    data = bytearray(path.read_bytes())
    data[data.index(bytes([3]) * 1000) + 500] ^= 1
    path.write_bytes(data)
    spool = Spool(path, 10**9, 60.0)
    assert emptied(spool) == images | {"j3": None}
    assert len(damage.set_aside_files(tmp_path, "l")) == 1
    spool.close()


def test_the_images_of_an_earlier_build_have_no_checksum_and_are_sent(tmp_path):
    path = tmp_path / "l.c.sqlite"
    images = filled(path, 3)
    with closing(sqlite3.connect(path)) as sqlite, sqlite:
        sqlite.execute("ALTER TABLE entries DROP COLUMN checksum")
    spool = Spool(path, 10**9, 60.0)
    assert emptied(spool) == images
    assert damage.set_aside_files(tmp_path, "l") == []
    spool.close()


def flipped(data, random):
    """Flip some bits, or fill the head of a page or all of it with noise."""
    data, start = bytearray(data), random.randrange(len(data) // PAGE) * PAGE
    match random.randrange(3):
        case 0:
            for _ in range(random.choice([1, 5, 50])):
                data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        case 1:
            data[start : start + 60] = random.randbytes(60)
        case 2:
            data[start : start + PAGE] = random.randbytes(PAGE)
    return bytes(data)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_damaged_in_a_spool_no_other_image_is_sent_and_none_is_lost_without_a_word(tmp_path, seed):
    path = tmp_path / "l.c.sqlite"
    images = filled(path, 10)
    path.write_bytes(flipped(path.read_bytes(), Random(seed)))
    spool = Spool(path, 10**9, 60.0)
    rest = emptied(spool)
    spool.put(job(99), b"pixels", NOW)
    assert spool.oldest().image == b"pixels"
    assert {job_id: image for job_id, image in rest.items() if image not in (None, images.get(job_id))} == {}
    assert rest == images or len(damage.set_aside_files(tmp_path, "l")) == 1
    spool.close()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_damaged_in_a_memory_of_taken_images_it_remembers_new_ones(tmp_path, seed):
    path, signature = tmp_path / "l.id.taken", Signature(1, 2, 3, 4)
    memory = TakenImages(path)
    memory.start({f"{number:03}.png": signature for number in range(200)})
    for number in range(40):
        memory.begin(f"begun-{number}.png", signature, Content(b"d"), NOW)
    memory.close()
    path.write_bytes(flipped(path.read_bytes(), Random(seed)))
    for _ in range(2):
        again = TakenImages(path)
        assert not again.is_new, "or images that are in the folder would count as taken"
        again.add("new.png", signature, Content(b"d"))
        again.close()
    last = TakenImages(path)
    assert last.signatures()["new.png"] == signature
    last.close()
