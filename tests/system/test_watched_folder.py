"""`patchline publish --watch` with real processes: every image that appears in the folder becomes one job."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from contextlib import closing
from pathlib import Path

import cv2
import pytest

from patchline.protocol import messages
from tests.proxy import Proxy
from tests.queues import JOBS_QUEUE
from tests.system.conftest import records, wait_for

pytestmark = pytest.mark.timeout(180)
QUEUED_EVENTS = Path("/proc/sys/fs/inotify/max_queued_events")


@pytest.fixture
def folder(tmp_path):
    """The watched folder. Other folders of the test lie beside it, on the same file system."""
    folder = tmp_path / "captured"
    folder.mkdir()
    return folder


@pytest.fixture
def picture(texture_folder):
    """Return different images, encoded."""
    pixels = cv2.imread(str(next((texture_folder / "test" / "good").iterdir())))

    def encode(number):
        changed = pixels.copy()
        changed[0, 0] = number % 256, number // 256, 7
        return cv2.imencode(".png", changed)[1].tobytes()

    return encode


class Watch:
    """A running publisher. A thread collects its log, so that it never waits for a reader."""

    def __init__(self, line, folder, *options, category=("--category", "brick")):
        self.process = line.start("publish", "--line", "l1", *category, "--watch", str(folder), *options)
        self.log = []
        threading.Thread(target=self._collect, daemon=True).start()
        self.wait_for_log("connected to RabbitMQ")
        time.sleep(1.0)  # an earlier build began to watch later

    def _collect(self):
        for line in self.process.stderr:
            self.log.append(line)
            sys.stdout.write(line)  # shown if the test fails

    def wait_for_log(self, text):
        def is_logged():
            assert self.process.poll() is None, self.log
            return any(text in line for line in self.log)

        wait_for(is_logged)
        return next(json.loads(line) for line in self.log if text in line)

    def stop(self):
        """Stop it. Return the records that were not read yet."""
        self.process.send_signal(signal.SIGTERM)
        output = self.process.stdout.read()
        assert self.process.wait(20) == 0
        return records(output)


def jobs(line, count):
    """Return `count` jobs, and any that follow within a second."""
    return line.all_messages(JOBS_QUEUE, count)


def parts(taken):
    return sorted(messages.parse_job(message).part_id for message in taken)


def make(folder, images):
    """Write a folder with images, beside the watched one."""
    folder.mkdir()
    for name, image in images.items():
        (folder / name).write_bytes(image)
    return folder


def test_images_moved_in_at_once_are_all_sent_and_their_deadlines_count_from_their_capture(line, folder, picture):
    outside = make(folder.with_name("outside"), {f"{number:02}.png": picture(number) for number in range(60)})
    watch = Watch(line, folder, "--deadline-ms", "60000")
    for path in sorted(outside.iterdir()):
        path.rename(folder / path.name)
    sent = [messages.parse_job(message) for message in jobs(line, 60)]
    assert [job.part_id for job in sent] == [f"{number:02}" for number in range(60)]
    assert {job.deadline - job.captured_at for job in sent} == {60_000}
    watch.stop()


def test_a_late_image_is_sent_and_said_to_be_late(line, folder, picture):
    outside = make(folder.with_name("outside"), {"late.png": picture(1)})
    an_hour_ago = time.time() - 3600
    os.utime(outside / "late.png", (an_hour_ago, an_hour_ago))
    watch = Watch(line, folder)
    (outside / "late.png").rename(folder / "late.png")
    record = json.loads(watch.process.stdout.readline())
    assert (record["state"], record["late"]) == ("confirmed", True)
    assert record["deadline"] == int(an_hour_ago * 1000) + line.settings.publisher.deadline_ms
    assert watch.wait_for_log("images are late")["count"] == 1
    watch.stop()


def test_images_in_folders_that_appear_are_sent_without_a_restart(line, folder, picture):
    outside = make(folder.with_name("moved"), {f"m{number}.png": picture(number) for number in range(5)})
    (folder.with_name("x.png")).write_bytes(picture(99))
    watch = Watch(line, folder)
    outside.rename(folder / "moved")
    for number in range(200):
        (folder / f"s{number}").mkdir()
        shutil.copy(folder.with_name("x.png"), folder / f"s{number}" / f"c{number}.png")
    expected = sorted([f"m{number}" for number in range(5)] + [f"c{number}" for number in range(200)])
    assert parts(jobs(line, 205)) == expected
    watch.stop()
    again = Watch(line, folder)
    assert again.stop() == [], "a restart sends nothing twice"


def test_a_file_system_without_events_is_listed(line, tmp_path, picture):
    lower, upper, work, merged = (tmp_path / name for name in ("lower", "upper", "work", "merged"))
    for path in (lower, upper, work, merged):
        path.mkdir()
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    mounted = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, str(merged)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount an overlay: {mounted.stderr.decode().strip()}")
    try:
        watch = Watch(line, merged)
        for number in range(3):  # not through the overlay, so the kernel tells nobody
            (upper / f"{number}.png").write_bytes(picture(number))
        assert parts(jobs(line, 3)) == ["0", "1", "2"]
        log = watch.wait_for_log("watching folder")
        assert (log["file_system"], log["found_by"]) == ("overlay", "listing, since events may be missing")
        watch.stop()
    finally:
        subprocess.run(["umount", "--lazy", str(merged)], check=True)


def test_a_bookmark_dated_in_the_future_hides_no_image(line, folder, picture):
    (folder / "taken.png").write_bytes(picture(1))
    time.sleep(1.1)  # a bookmark is a second behind
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
    spool = line.settings.paths.spool
    spool.mkdir(exist_ok=True)
    bookmark = spool / f"l1.brick.{digest}.bookmark"
    bookmark.touch()
    os.utime(bookmark, (time.time() + 1e8, time.time() + 1e8))
    time.sleep(0.1)
    (folder / "missed.png").write_bytes(picture(2))
    watch = Watch(line, folder)
    assert parts(jobs(line, 1)) == ["missed"]
    watch.wait_for_log("bookmark is dated in the future")
    watch.stop()


def test_images_are_found_after_the_kernels_queue_has_overflowed(line, folder, picture):
    limit = int(QUEUED_EVENTS.read_text())
    if limit > 100_000:
        pytest.skip(f"{QUEUED_EVENTS} is {limit}")
    watch = Watch(line, folder)
    watch.process.send_signal(signal.SIGSTOP)
    for number in range(limit + 100):  # in turn: the kernel merges equal events in a row
        (folder / f"{number % 2}.txt").write_bytes(b"")
    for number in range(150):
        (folder / f"{number:03}.png").write_bytes(picture(number))
    watch.process.send_signal(signal.SIGCONT)
    assert parts(jobs(line, 150)) == [f"{number:03}" for number in range(150)]
    watch.wait_for_log("events of the watched folder were lost")
    watch.stop()


@pytest.mark.parametrize("pause_s", [0.4, 1.5])
@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_an_image_written_in_two_halves_becomes_one_job(line, folder, picture, pause_s, closed):
    image = picture(1)
    watch = Watch(line, folder)
    with (folder / "slow.png").open("wb") as file:
        file.write(image[: len(image) // 2])
        file.flush()
        if not closed:
            time.sleep(pause_s)
            file.write(image[len(image) // 2 :])
    if closed:
        time.sleep(pause_s)
        with (folder / "slow.png").open("ab") as file:
            file.write(image[len(image) // 2 :])
    sent = jobs(line, 1)
    assert [message.body for message in sent] == [image]
    assert jobs(line, 0) == []
    watch.stop()


def test_an_image_that_stays_truncated_is_sent_as_it_is_and_holds_up_no_other(line, folder, picture):
    watch = Watch(line, folder)
    (folder / "1-half.png").write_bytes(picture(1)[:500])
    (folder / "2-good.png").write_bytes(picture(2))
    with (folder / "0-growing.png").open("wb") as growing:
        taken = []
        deadline = time.monotonic() + 40
        while len(taken) < 2 and time.monotonic() < deadline:
            growing.write(b"\0")
            growing.flush()
            taken += line.messages(JOBS_QUEUE, 1, timeout_s=0.1)
    assert [messages.parse_job(message).part_id for message in taken] == ["2-good", "1-half"]
    assert [message.body for message in taken] == [picture(2), picture(1)[:500]]
    watch.stop()


def test_a_camera_that_always_writes_the_same_name_loses_none_that_rested(line, folder, picture):
    watch = Watch(line, folder)
    sent = []
    for number in range(10):
        (folder / "last.png").write_bytes(picture(number))
        sent += line.messages(JOBS_QUEUE, 1)
    assert [message.body for message in sent] == [picture(number) for number in range(10)]
    copies = set()
    for count in range(3):
        (folder / ".new.png").write_bytes(picture(0))
        os.utime(folder / ".new.png", (1_700_000_000, 1_700_000_000))
        (folder / ".new.png").rename(folder / "last.png")  # identical, also in the time that was set
        watch.wait_for_log("images are late")  # the first one, which goes to the backlog
        while len(copies) < count:
            copies |= {messages.parse_job(message).job_id for message in line.messages(JOBS_QUEUE, 1)}
    watch.process.kill()
    watch.process.wait(10)
    (folder / "last.png").write_bytes(picture(10))
    again = Watch(line, folder)
    assert jobs(line, 1)[-1].body == picture(10)
    again.stop()


def test_a_killed_publisher_loses_no_image_and_repeats_only_what_was_under_way(line, folder, picture):
    watch = Watch(line, folder)
    expected = {f"{number:03}" for number in range(120)}
    for number in range(120):
        (folder / f"{number:03}.png").write_bytes(picture(number))
        if number == 60:
            watch.process.kill()
    watch.process.wait(10)
    before = {messages.parse_job(message).job_id for message in line.messages(JOBS_QUEUE, 1000, timeout_s=2.0)}
    again = Watch(line, folder)
    after = []
    while len(before | {job.job_id for job in after}) < 120:
        after += map(messages.parse_job, line.messages(JOBS_QUEUE, 1) or pytest.fail("a job is missing"))
    after += map(messages.parse_job, jobs(line, 0))
    again.stop()
    assert {job.part_id for job in after} <= expected
    assert len(before | {job.job_id for job in after}) == 120


def test_an_image_whose_time_is_set_when_its_publisher_is_killed_stays_one_job(line, folder, picture):
    environment = line.environment
    url = urllib.parse.urlsplit(environment["PATCHLINE_AMQP_URL"])
    with closing(Proxy(url.port)) as proxy:
        through_proxy = url._replace(netloc=f"127.0.0.1:{proxy.port}").geturl()
        line.environment = environment | {"PATCHLINE_AMQP_URL": through_proxy}
        watch = Watch(line, folder)
        proxy.hold_answers()  # the publisher does not know that its job has arrived
        (folder / "a.png").write_bytes(picture(1))
        (sent,) = line.messages(JOBS_QUEUE, 1)
        watch.process.kill()
        watch.process.wait(10)
    os.utime(folder / "a.png", (time.time() - 1, time.time() - 1))  # as an SMB server that keeps the camera's time
    line.environment = environment
    again = Watch(line, folder)
    repeated = [(job.job_id, job.captured_at, job.deadline) for job in map(messages.parse_job, jobs(line, 1))]
    again.stop()
    first = messages.parse_job(sent)
    assert repeated == [(first.job_id, first.captured_at, first.deadline)]


def test_a_second_publisher_of_a_folder_ends_with_one_line_and_takes_over_after_a_kill(line, folder, picture):
    folder.chmod(0o555)  # what the publisher needs, it does not write there
    first = Watch(line, folder)
    second = line.run("publish", "--line", "l1", "--category", "brick", "--watch", str(folder))
    assert second.returncode == 2
    assert f"{folder}: another publisher of line l1 watches this folder; end one of the two (process" in second.err
    assert "Traceback" not in second.err
    assert first.process.poll() is None
    first.process.kill()
    first.process.wait()
    folder.chmod(0o755)
    third = Watch(line, folder)
    (folder / "a.png").write_bytes(picture(1))
    assert parts(jobs(line, 1)) == ["a"]
    third.stop()


def test_a_link_that_leads_to_another_folder_is_followed_also_while_no_publisher_runs(line, tmp_path, picture):
    folders, link = [make(tmp_path / name, {}) for name in ("monday", "tuesday", "wednesday")], tmp_path / "current"
    link.symlink_to(folders[0])
    watch = Watch(line, link)
    (folders[0] / "a.png").write_bytes(picture(1))
    assert parts(jobs(line, 1)) == ["a"]
    (folders[1] / "b.png").write_bytes(picture(2))
    link.unlink()
    link.symlink_to(folders[1])
    (folders[0] / "c.png").write_bytes(picture(3))
    assert parts(jobs(line, 2)) == ["b", "c"]
    watch.stop()
    (folders[2] / "d.png").write_bytes(picture(4))
    link.unlink()
    link.symlink_to(folders[2])
    again = Watch(line, link)
    assert parts(jobs(line, 1)) == ["d"]
    again.stop()


def test_one_publisher_serves_the_categories_of_its_subfolders(line, folder, picture):
    watch = Watch(line, folder, category=("--category-from", "{category}/*"))
    for name in ("unknown", "brick"):
        make(folder / name, {f"in-{name}.png": picture(1)})
    assert [message.headers["category"] for message in jobs(line, 1)] == ["brick"]
    assert watch.wait_for_log("image refused")["path"] == "unknown/in-unknown.png"
    (record,) = watch.stop()
    assert (record["part_id"], record["category"]) == ("in-brick", "brick")


def test_hidden_folders_are_left_out_and_names_that_are_not_utf8_are_sent(line, folder, picture):
    watch = Watch(line, folder)
    for name in (".hidden", "@eaDir", "#recycle"):
        make(folder / name, {"thumbnail.png": picture(1)})
    (folder / os.fsdecode(b"cell-\xff\xfe.png")).write_bytes(picture(2))
    assert parts(jobs(line, 1)) == ["cell----98727c30"], "with a hash of the name"
    watch.stop()


def test_a_folder_that_goes_away_is_reported_and_watched_again_when_it_is_back(line, folder, picture):
    watch = Watch(line, folder)
    away = folder.rename(folder.with_name("away"))
    log = watch.wait_for_log("watched folder cannot be read")
    assert (log["folder"], log["reason"]) == (str(folder), "No such file or directory")
    (away / "1.png").write_bytes(picture(1))
    away.rename(folder)
    assert parts(jobs(line, 1)) == ["1"]
    (folder / "2.png").write_bytes(picture(2))
    assert parts(jobs(line, 1)) == ["2"]
    watch.stop()
