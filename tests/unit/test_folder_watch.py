"""What belongs to a watched folder besides its states: content checks, listing, events, memory and the reading."""

import errno
import hashlib
import itertools
import json
import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from patchline import config
from patchline.cli import line
from patchline.protocol import image_files
from patchline.protocol.errors import SetupError
from patchline.publisher import (
    bookmark,
    folder_events,
    folder_listing,
    folder_metrics,
    folder_setup,
    source,
    taken_file,
    taken_images,
)
from patchline.publisher.category_pattern import CategoryPattern
from patchline.publisher.folder_events import Event, FolderEvents, Kind
from patchline.publisher.folder_metrics import FolderMetrics
from patchline.publisher.folder_reports import FolderReports
from patchline.publisher.taken_images import Content, Known, TakenImages
from patchline.publisher.watched_folder import Signature, State
from patchline.publisher.whole_image import is_whole
from patchline.runtime import damage
from patchline.runtime.metrics import Registry
from tests import pictures

SETTINGS = config.load(Path("config.yaml"))
NOT_UTF8 = os.fsdecode(b"cell-\xff.png")
PIXELS = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
PNG = cv2.imencode(".png", PIXELS)[1].tobytes()


def png(number):
    pixels = PIXELS.copy()
    pixels[0, 0] = number
    return cv2.imencode(".png", pixels)[1].tobytes()


def write(path, content=PNG):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


class Plant:
    """A watch without a broker: events come from a list, and time passes when the watch waits."""

    def __init__(self, tmp_path, monkeypatch):
        self.root = tmp_path / "captured"
        self.root.mkdir()
        self.spool = tmp_path / "spool"
        self.now = 1000.0
        self.events = []
        self.complete_events = True
        self.registry = None
        self.watches = []
        clock = SimpleNamespace(monotonic=lambda: self.now, time_ns=time.time_ns)
        monkeypatch.setattr("patchline.publisher.folder_watch.time", clock)
        monkeypatch.setattr("patchline.publisher.folder_setup.FolderEvents", lambda *_: self)
        monkeypatch.setattr(taken_images, "_BEGIN_S", 30.0)  # the disk of a busy machine
        self.settings = SETTINGS.model_copy(update={"paths": SETTINGS.paths.model_copy(update={"spool": self.spool})})

    @property
    def complete(self):
        return self.complete_events

    def watch(self, folder):
        self.watches.append(folder)

    def read(self, timeout_s):
        self.now += timeout_s
        events, self.events = self.events, []
        return events

    def close(self):
        pass

    def open(self, pattern=None, deadline_ms=10_000, from_start=False):
        self.registry, self.stop = Registry(), threading.Event()
        categories = CategoryPattern(pattern, ["bottle", "cable"]) if pattern else None
        metrics = FolderMetrics(self.registry, "l")
        given = deadline_ms, categories, metrics, self.stop, from_start
        return folder_setup.open_watch(self.root, "l", self.settings, *given)

    def metrics(self):
        return FolderMetrics(Registry(), "l")

    def metric(self, name, **labels):
        return self.registry.get_sample_value(f"patchline_{name}", {"line": "l"} | labels)

    def captures(self, watch, seconds=6.0, accept=True):
        """Run a watch for some seconds of its clock. Return what it captured."""
        captured, end = [], self.now + seconds

        def keep_time(timeout_s, read=self.read):
            if self.now >= end:
                self.stop.set()
            return read(timeout_s)

        watch.events = SimpleNamespace(read=keep_time, watch=self.watch, close=self.close, complete=self.complete)
        for capture in watch.captures():
            captured.append(capture)
            if accept:
                capture.on_accepted()
        watch.close()
        return captured

    def turn(self, watch):
        watch.events = self
        return list(watch.turn(0.2))

    def parts(self, *arguments, **options):
        return [capture.part_id for capture in self.captures(self.open(*arguments), **options)]


@pytest.fixture
def plant(tmp_path, monkeypatch):
    return Plant(tmp_path, monkeypatch)


@pytest.mark.parametrize(("suffix", "tail"), [(".png", 1), (".jpg", 1), (".bmp", 1), (".webp", 1), (".tif", 200)])
def test_an_encoded_image_is_whole_only_with_its_end(suffix, tail):
    encoded = cv2.imencode(suffix, PIXELS)[1].tobytes()
    assert is_whole(encoded)
    for length in (0, 3, 10, len(encoded) // 2, len(encoded) - tail):
        assert not is_whole(encoded[:length]), length


def test_the_thumbnail_of_a_jpeg_is_not_its_end(tmp_path):
    thumbnail = cv2.imencode(".jpg", PIXELS)[1].tobytes()
    encoded = cv2.imencode(".jpg", PIXELS)[1].tobytes()
    segment = b"\xff\xe1" + (2 + len(thumbnail)).to_bytes(2, "big") + thumbnail
    with_thumbnail = encoded[:2] + segment + encoded[2:]
    assert is_whole(with_thumbnail)
    assert not is_whole(with_thumbnail[:-2])


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_deflate"])
def test_a_tiff_is_whole_when_its_pixels_are_there(tmp_path, compression):
    Image.fromarray(PIXELS).save(tmp_path / "x.tif", compression=compression)
    encoded = (tmp_path / "x.tif").read_bytes()
    assert is_whole(encoded)
    assert not is_whole(encoded[: len(encoded) // 2])


@pytest.mark.parametrize(
    "encoded",
    [
        pictures.tiff(PIXELS, big=True),
        pictures.tiff(PIXELS, big=True, order=">"),
        pictures.tiff(PIXELS, thumbnail="first"),
        pictures.pnm("P6", PIXELS, 255),
        pictures.pnm("P5", PIXELS[..., 0].astype(np.uint16), 4095),
    ],
    ids=["BigTIFF", "big-endian BigTIFF", "TIFF with a thumbnail", "PPM", "PGM of 12 bits"],
)
def test_what_cameras_write_is_whole_only_with_its_end(encoded):
    assert is_whole(encoded)
    for length in (0, 3, 10, len(encoded) // 2):
        assert not is_whole(encoded[:length]), length


def test_what_is_no_image_is_not_whole():
    assert not is_whole(b"not an image, whatever its name says")


@pytest.mark.parametrize(
    "name",
    [
        ".x",
        ".stfolder",
        ".sync",
        "@eaDir",
        "#recycle",
        "lost+found",
        "$RECYCLE.BIN",
        "System Volume Information",
        "~syncthing~a.png.tmp",
        "upload.part",
        "upload.partial",
        "upload.tmp",
        ".goutputstream-AB12",
    ],
)
def test_hidden_and_system_folders_are_left_out(tmp_path, name):
    write(tmp_path / "good" / "1.png")
    write(tmp_path / name / "2.png")
    write(tmp_path / "good" / name / "deep" / "3.png")
    assert [path.name for path in image_files.find([tmp_path])] == ["1.png"]
    assert list(folder_listing.list_folder(tmp_path, "", lambda _: None).images) == ["good/1.png"]


def test_a_given_folder_may_be_hidden(tmp_path):
    write(tmp_path / ".hidden" / "1.png")
    assert [path.name for path in image_files.find([tmp_path / ".hidden"])] == ["1.png"]


def test_each_folder_is_watched_before_it_is_listed(tmp_path):
    write(tmp_path / "a" / "b" / "1.png")
    seen = []

    def watch(folder):
        seen.append(folder)
        if folder == "a/b":
            write(tmp_path / "a" / "b" / "2.png")

    listing = folder_listing.list_folder(tmp_path, "", watch)
    assert seen == ["", "a", "a/b"]
    assert set(listing.images) == {"a/b/1.png", "a/b/2.png"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_an_unreadable_subfolder_is_reported_and_the_others_are_listed(tmp_path):
    write(tmp_path / "a" / "1.png")
    write(tmp_path / "b" / "2.png")
    (tmp_path / "b").chmod(0)
    listing = folder_listing.list_folder(tmp_path, "", lambda _: None)
    (tmp_path / "b").chmod(0o700)
    assert (set(listing.images), listing.unreadable) == ({"a/1.png"}, {"b": "Permission denied"})


def events_of(folder, events, action):
    action()
    return events.read(0.5)


def test_the_kernel_tells_of_closed_and_moved_images_and_of_folders(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    write(outside / "c.png")
    write(outside / "d.png")
    events = FolderEvents(root, threading.Event())
    events.watch("")
    with (root / "a.png").open("wb") as file:
        assert events.read(0.5) == [Event(Kind.WRITTEN, "a.png")]
        file.write(PNG)
    assert events.read(0.5) == [Event(Kind.WRITTEN, "a.png"), Event(Kind.CLOSED, "a.png")]
    (outside / "c.png").rename(root / NOT_UTF8)
    assert events.read(0.5) == [Event(Kind.MOVED, NOT_UTF8)]
    (root / "link.png").hardlink_to(outside / "d.png")
    (root / "soft.png").symlink_to(outside / "d.png")  # nobody closes a link
    assert events.read(0.5) == [Event(Kind.ARRIVED, "link.png"), Event(Kind.ARRIVED, "soft.png")]
    outside.rename(root / "sub")
    assert events.read(0.5) == [Event(Kind.FOLDER, "sub")]
    write(root / ".hidden.png")
    write(root / "notes.txt")
    assert events.read(0) == []
    events.close()


def test_an_image_that_is_written_with_a_pause_into_a_file_of_full_size_is_sent_whole(plant):
    watch = plant.open()
    assert plant.turn(watch) == []  # the first listing
    header = b"P5\n64 64\n255\n"  # a format without a mark at its end
    path = write(plant.root / "a.pgm", header + bytes(64 * 64))
    plant.events = [Event(Kind.WRITTEN, "a.pgm")]
    until = plant.now + 2 * plant.settings.publisher.rest_ms / 1000
    while plant.now < until:
        assert plant.turn(watch) == []
    path.write_bytes(header + PIXELS[..., 0].tobytes())
    plant.events = [Event(Kind.CLOSED, "a.pgm")]
    (capture,) = plant.turn(watch)
    assert capture.image == path.read_bytes()
    watch.close()


def test_a_folder_that_is_moved_away_is_no_longer_watched(tmp_path):
    root = tmp_path / "root"
    write(root / "sub" / "deep" / "a.png")
    events = FolderEvents(root, threading.Event())
    for folder in ("", "sub", "sub/deep"):
        events.watch(folder)
    (root / "sub").rename(tmp_path / "elsewhere")
    assert events.read(0.5) == []
    write(tmp_path / "elsewhere" / "deep" / "b.png")
    assert events.read(0) == []
    events.close()


def test_a_full_queue_of_the_kernel_is_an_overflow(tmp_path):
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 50_000:
        pytest.skip(f"fs.inotify.max_queued_events is {limit}")
    events = FolderEvents(tmp_path, threading.Event())
    events.watch("")
    for number in range(limit + 1):  # in turn: equal events in a row would be merged
        (tmp_path / f"{number % 2}.png").open("wb").close()
    kinds = [event.kind for event in events.read(0.5)]
    assert kinds[-1] is Kind.OVERFLOW
    events.close()


def test_without_inotify_the_watch_relies_on_listings(tmp_path, monkeypatch):
    def refuse():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(folder_events, "INotify", refuse)
    stop = threading.Event()
    stop.set()
    events = FolderEvents(tmp_path, stop)
    events.watch("")
    assert (events.read(10.0), events.complete) == ([], False)
    events.close()


@pytest.mark.parametrize(("path", "type_"), [("/proc", "proc"), ("/sys", "sysfs")])
def test_the_type_of_a_file_system_is_known(path, type_):
    assert folder_events.file_system(Path(path)) == type_


@pytest.mark.parametrize(
    ("type_", "complete"), [("ext4", True), ("xfs", True), ("nfs4", False), ("cifs", False), ("overlay", False)]
)
def test_network_and_overlay_file_systems_have_no_complete_events(tmp_path, monkeypatch, type_, complete):
    monkeypatch.setattr(folder_events, "file_system", lambda _: type_)
    events = FolderEvents(tmp_path, threading.Event())
    assert events.complete is complete
    events.close()


SIGNATURE = Signature(2**63 - 1, 10, -5, 1_700_000_000_000_000_000)
CONTENT = Content(b"d")


def test_taken_images_are_remembered_with_their_names_and_signatures(tmp_path):
    memory = TakenImages(tmp_path / "m")
    assert memory.is_new
    memory.start({"old.png": SIGNATURE})
    memory.add(NOT_UTF8, SIGNATURE, CONTENT)
    memory.add("gone.png", SIGNATURE, CONTENT)
    memory.flush()
    memory.remove(["gone.png"])
    memory.close()
    again = TakenImages(tmp_path / "m")
    assert not again.is_new
    assert again.signatures() == {"old.png": SIGNATURE, NOT_UTF8: SIGNATURE}
    again.close()


def test_a_content_is_known_in_each_of_its_stages(tmp_path):
    memory = TakenImages(tmp_path / "m")
    moved = SIGNATURE._replace(inode=7, ctime_ns=8)
    stages = [memory.knows("a.png", moved, CONTENT)]
    memory.begin("a.png", SIGNATURE, CONTENT, 5)
    stages.append(memory.knows("a.png", moved, CONTENT))
    memory.add("a.png", SIGNATURE, CONTENT)
    stages.append(memory.knows("a.png", moved, CONTENT))
    memory.flush()
    assert [*stages, memory.knows("a.png", moved, CONTENT)] == [Known.NEW, Known.UNDER_WAY, Known.TAKEN, Known.TAKEN]
    assert memory.knows("a.png", moved, Content(b"other content")) is Known.NEW
    assert memory.knows("a.png", moved._replace(mtime_ns=9), CONTENT) is Known.NEW
    assert memory.knows("a.png", SIGNATURE._replace(mtime_ns=9), CONTENT) is Known.TAKEN, "a program has set its time"
    written = SIGNATURE._replace(mtime_ns=SIGNATURE.ctime_ns)
    assert memory.knows("a.png", written, CONTENT) is Known.NEW, "written again"
    memory.close()


def test_what_a_full_disk_does_not_take_is_written_later(tmp_path):
    memory = TakenImages(tmp_path / "m")
    memory._sqlite.execute("PRAGMA query_only=ON")
    memory.add("a.png", SIGNATURE, CONTENT)
    memory.flush()
    assert memory.knows("a.png", SIGNATURE, CONTENT)
    memory._sqlite.execute("PRAGMA query_only=OFF")
    memory.flush()
    assert memory.signatures() == {"a.png": SIGNATURE}
    memory.close()


def test_a_disk_that_hangs_holds_up_no_image_and_is_reported(plant, monkeypatch, capsys):
    answers, hung, write_rows = threading.Event(), threading.Event(), taken_file.write

    def hang(sqlite, changes):
        hung.set()
        assert answers.wait(20)
        write_rows(sqlite, changes)

    watch = plant.open()
    monkeypatch.setattr(taken_file, "write", hang)
    monkeypatch.setattr(taken_images, "_LATE_S", 0.0)
    monkeypatch.setattr(taken_images, "_BEGIN_S", 0.2)
    sent = []
    for number in range(3):
        write(plant.root / f"{number}.png", png(number))
        plant.events.append(Event(Kind.CLOSED, f"{number}.png"))
        for capture in [*plant.turn(watch), *plant.turn(watch)]:
            capture.on_accepted()
            sent.append(capture.part_id)
        watch.memory.flush_later()
        assert hung.wait(20)
    assert sent == ["0", "1", "2"], "all are sent while the memory is being written"
    assert watch.memory.unwritten_s() > 0
    assert "the disk of paths.spool does not answer" in capsys.readouterr().out
    answers.set()
    watch.close()
    assert plant.parts() == [], "they are remembered once the disk answers"


def test_a_publisher_that_does_not_look_for_images_is_not_ready_and_says_so(plant, monkeypatch, capsys):
    metrics, now = plant.metrics(), 100.0
    monkeypatch.setattr(folder_metrics, "time", SimpleNamespace(monotonic=lambda: now))
    metrics.record_look()
    now = 129.0
    assert metrics.is_looking()
    now = 131.0
    assert not metrics.is_looking()
    assert not metrics.is_looking()
    assert capsys.readouterr().out.count("no image of the watched folder was looked for in 30 s") == 1
    metrics.record_look()
    assert metrics.is_looking()
    assert "looked for again" in capsys.readouterr().out


def test_a_memory_that_cannot_be_repaired_by_its_thread_ends_the_watch_with_its_words(tmp_path, monkeypatch):
    memory = TakenImages(tmp_path / "m")
    ended = threading.Event()

    def fail(*_):
        ended.set()
        raise SetupError("the memory is damaged")

    monkeypatch.setattr(taken_file, "write", fail)
    memory.add("a.png", SIGNATURE, CONTENT)
    memory.flush_later()
    assert ended.wait(20)
    memory._writer.join(20)
    with pytest.raises(SetupError, match="damaged"):
        memory.flush_later()
    monkeypatch.undo()
    memory.close()


def test_a_file_that_is_no_memory_is_set_aside_and_no_image_counts_as_taken(tmp_path):
    (tmp_path / "l.id.taken").write_bytes(b"not a database" * 1000)
    memory = TakenImages(tmp_path / "l.id.taken")
    assert not memory.is_new, "or what is in the folder would count as taken"
    assert memory.signatures() == {}
    memory.close()
    assert len(damage.set_aside_files(tmp_path, "l")) == 1


@pytest.mark.parametrize("damaged", [bytes(4096), b"\xa5" * 4096], ids=["zeros", "garbage"])
def test_of_a_memory_with_a_damaged_page_the_other_images_are_not_sent_again(tmp_path, damaged):
    path, names = tmp_path / "l.id.taken", [f"{number:04}.png" for number in range(1000)]
    memory = TakenImages(path)
    memory.start(dict.fromkeys(names, SIGNATURE))
    memory.close()
    data = path.read_bytes()
    (hit,) = [start for start in range(0, len(data), 4096) if b"0500.png" in data[start : start + 4096]]
    path.write_bytes(data[:hit] + damaged + data[hit + 4096 :])
    again = TakenImages(path)
    rest = again.signatures()
    assert len(names) - 150 < len(rest) < len(names)
    again.add("new.png", SIGNATURE, CONTENT)
    again.close()
    last = TakenImages(path)
    assert last.signatures() == rest | {"new.png": SIGNATURE}
    last.close()
    assert len(damage.set_aside_files(tmp_path, "l")) == 1


NOW, HOUR = 1_800_000_000_000_000_000, 3_600_000_000_000


def taken_by_bookmark(mtime_ns, ctime_ns, *image_times):
    images = {str(number): Signature(1, 1, 1, ctime) for number, ctime in enumerate(image_times)}
    status = SimpleNamespace(st_mtime_ns=mtime_ns, st_ctime_ns=ctime_ns)
    return set(bookmark.taken_images(images, status, NOW))


def test_a_bookmark_says_what_was_taken():
    assert taken_by_bookmark(NOW - HOUR, NOW - HOUR, NOW - 2 * HOUR, NOW - HOUR + 1) == {"0"}


def test_a_bookmark_dated_in_the_future_hides_nothing_since_its_last_use():
    assert taken_by_bookmark(NOW + 9 * HOUR, NOW - HOUR, NOW - 2 * HOUR, NOW - HOUR + 1, NOW) == {"0"}


def test_a_bookmark_last_used_in_the_future_hides_only_images_of_that_time():
    assert taken_by_bookmark(NOW + 9 * HOUR, NOW + 9 * HOUR, NOW - HOUR, NOW + HOUR, NOW + 10 * HOUR) == {"1"}


@pytest.mark.parametrize(
    ("pattern", "path", "category"),
    [
        ("{category}/*", "bottle/1.png", "bottle"),
        ("{category}/*", "bottle/deep/1.png", None),
        ("{category}/**/*", "bottle/deep/1.png", "bottle"),
        ("{category}/*", "unknown/1.png", None),
        ("{category}_*", "solar_cell_mono_7.png", "solar_cell_mono"),
        ("**/{category}_*", "2026/11/solar_cell_7.png", "solar_cell"),
        ("**/{category}_*", "solar_cell_7.png", "solar_cell"),
        ("cam?-{category}-*", "cam1-bottle-7.png", None),
        ("{category}/*", os.fsdecode(b"bottle/\xff\n.png"), "bottle"),
    ],
)
def test_the_category_comes_from_the_path(pattern, path, category):
    assert CategoryPattern(pattern, ["bottle", "solar_cell", "solar_cell_mono"]).category(path) == category


def test_a_category_that_people_teach_is_known_by_its_recipe():
    pattern = CategoryPattern("{category}/*", ["bottle"], lambda name: name != "seal")
    found = [pattern.category(f"{name}/1.png") for name in ("bottle", "new-one", "seal", "-x", "a b", "n" * 64)]
    assert found == ["bottle", "new-one", None, None, None, None]


@pytest.mark.parametrize("pattern", ["*", "{category}/{category}", ""])
def test_a_pattern_names_the_category_once(pattern):
    with pytest.raises(SetupError, match=r"must contain \{category\} once"):
        CategoryPattern(pattern, ["bottle"])


def test_what_was_handed_in_before_the_first_start_is_sent_and_once(plant):
    write(plant.root / "before.png")
    assert [one.part_id for one in plant.captures(plant.open(from_start=True))] == ["before"]
    assert plant.captures(plant.open(from_start=True)) == []


def test_images_that_are_there_at_the_first_start_count_as_taken(plant):
    write(plant.root / "long-ago.png")
    time.sleep(0)
    watch = plant.open()
    write(plant.root / "new.png", png(1))
    assert [capture.part_id for capture in plant.captures(watch)] == ["new"]


def test_a_listing_finds_images_without_any_event_after_one_rest_for_all(plant):
    watch = plant.open()
    started = plant.now
    for number in range(60):
        write(plant.root / f"s{number}" / "x" / f"{number:02}.png", png(number))
    captures = plant.captures(watch, seconds=SETTINGS.publisher.rest_ms / 1000 + 0.4)
    assert len(captures) == 60
    assert plant.now - started < 1.0


def test_an_overflow_leads_to_a_listing(plant):
    watch = plant.open()

    def late(*_):
        write(plant.root / "unheard.png")
        plant.events.append(Event(Kind.OVERFLOW))
        yield

    moment = late()
    read = plant.read

    def read_then_overflow(timeout_s):
        next(moment, None)
        return read(timeout_s)

    plant.read = read_then_overflow
    assert [capture.part_id for capture in plant.captures(watch, seconds=1.0)] == ["unheard"]


def test_a_folder_that_appears_is_listed_at_once(plant):
    watch = plant.open()
    read = plant.read

    def move_in(timeout_s):
        if not (plant.root / "sub").exists():
            write(plant.root / "sub" / "deep" / "1.png")
            plant.events.append(Event(Kind.FOLDER, "sub"))
        return read(timeout_s)

    plant.read = move_in
    assert [capture.part_id for capture in plant.captures(watch, seconds=1.0)] == ["1"]
    assert plant.watches == ["", "sub", "sub/deep"]


def test_what_was_accepted_is_not_sent_after_a_restart_and_what_was_not_is(plant):
    first = plant.open()
    write(plant.root / "1.png", png(1))
    assert [capture.part_id for capture in plant.captures(first)] == ["1"]
    second = plant.open()
    write(plant.root / "2.png", png(2))
    assert [capture.part_id for capture in plant.captures(second, accept=False)] == ["2"]
    assert plant.parts() == ["2"]
    assert plant.parts() == []


def test_no_clock_hides_an_image(plant):
    plant.open().close()
    old = write(plant.root / "old.png")
    os.utime(old, (0, 0))
    future = write(plant.root / "future.png", png(1))
    os.utime(future, (4_000_000_000, 4_000_000_000))
    assert sorted(plant.parts()) == ["future", "old"]
    assert plant.parts() == []


def test_a_replaced_image_of_the_same_name_is_new(plant):
    plant.open().close()
    path = write(plant.root / "last.png", png(1))
    status = path.stat()
    first = plant.captures(plant.open())
    path.write_bytes(png(2))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # in place, with the same size and time
    second = plant.captures(plant.open())
    assert [capture.image for capture in first + second] == [png(1), png(2)]


def test_a_change_of_rights_does_not_send_what_was_left_out_at_the_first_start(plant):
    path = write(plant.root / "old.png")
    os.utime(path, (1_800_000_000, 1_800_000_000))
    plant.open().close()
    path.chmod(0o640)
    assert plant.parts() == []
    path.chmod(0o600)
    assert plant.parts() == []
    write(path, png(1))
    assert plant.parts() == ["old"], "a new image of that name is sent"


def test_a_change_of_rights_or_of_the_inode_does_not_send_an_image_twice(plant):
    plant.open().close()
    path = write(plant.root / "1.png")
    assert plant.parts() == ["1"]
    path.chmod(0o640)
    assert plant.parts() == []
    status = path.stat()
    copy = write(plant.root.parent / "copy.png")
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
    copy.rename(path)
    assert plant.parts() == []


def test_an_image_whose_time_is_set_after_it_was_closed_is_sent_once(plant):
    watch = plant.open()
    path = write(plant.root / "1.png")
    plant.events.append(Event(Kind.CLOSED, "1.png"))
    captures = watch.captures()
    next(captures).on_accepted()
    os.utime(path, (1_700_000_000, 1_700_000_000))
    assert plant.captures(watch) == []


def set_time(path):
    os.utime(path, (1_700_000_000, 1_700_000_000))


def begin(plant, watch, *events):
    """Have an image handed on and not accepted, as if the publisher were killed then."""
    plant.events = [Event(kind, "1.png") for kind in events or (Kind.WRITTEN, Kind.CLOSED)]
    (capture,) = plant.turn(watch)
    with closing(sqlite3.connect(watch.memory._path)) as other:
        assert other.execute("SELECT captured_at FROM begun").fetchall() == [(capture.captured_at,)]
    return capture


def send_again(plant):
    """Start a publisher after the end of another one. Return what it sends."""
    captures = plant.captures(plant.open())
    assert plant.parts() == [], "it is sent once"
    return captures


def test_an_image_whose_time_is_set_when_its_publisher_is_killed_is_sent_again_as_the_same_job(plant):
    watch = plant.open()
    path = write(plant.root / "1.png")
    first = begin(plant, watch)
    watch.close()
    set_time(path)
    (again,) = send_again(plant)
    assert (again.captured_at, again.deadline) == (first.captured_at, first.deadline), "and no second job of the part"


def test_an_image_whose_time_is_set_before_it_is_confirmed_is_not_lost_if_its_publisher_is_killed(plant):
    watch = plant.open()
    path = write(plant.root / "1.png")
    first = begin(plant, watch)
    set_time(path)
    assert plant.captures(watch, accept=False) == [], "its publisher knows that the image is under way"
    (again,) = send_again(plant)
    assert again.captured_at == first.captured_at


def test_an_image_whose_time_is_set_before_it_is_confirmed_is_not_sent_again_after_that(plant):
    watch = plant.open()
    path = write(plant.root / "1.png")
    first = begin(plant, watch)
    set_time(path)
    first.on_accepted()
    watch.close()
    assert send_again(plant) == []


def test_a_second_part_with_the_same_picture_and_set_time_is_not_lost_if_its_publisher_is_killed(plant):
    watch = plant.open()
    path = write(plant.root / "1.png")
    set_time(path)
    begin(plant, watch).on_accepted()
    watch.memory.flush()
    path.write_bytes(PNG)
    set_time(path)
    second = begin(plant, watch)
    watch.close()
    (again,) = send_again(plant)
    assert again.captured_at == second.captured_at


def test_a_new_picture_under_the_name_of_one_that_a_killed_publisher_has_begun_is_a_job_of_its_own(plant):
    watch = plant.open()
    path = write(plant.root / "1.png")
    first = begin(plant, watch)
    watch.close()
    write(path, png(1))
    (again,) = send_again(plant)
    assert (again.image, again.captured_at > first.captured_at) == (png(1), True)


def test_what_a_killed_publisher_has_begun_is_forgotten_when_it_is_gone(plant):
    watch = plant.open()
    path = write(plant.root / "1.png")
    begin(plant, watch)
    watch.close()
    write(path.with_name("2.png"), png(2))
    path.unlink()
    assert [capture.part_id for capture in send_again(plant)] == ["2"]
    memory = TakenImages(watch.memory._path)
    assert memory.gone([]) == set()
    memory.close()


def test_the_same_content_that_is_written_again_is_sent_again(plant):
    plant.open().close()
    path = write(plant.root / "last.png")
    assert plant.parts() == ["last"]
    time.sleep(0.02)
    path.write_bytes(PNG)
    assert plant.parts() == ["last"]


@pytest.mark.parametrize("events", [(Kind.MOVED,), (Kind.WRITTEN, Kind.CLOSED)])
def test_the_same_content_with_the_same_set_time_is_sent_again_as_a_capture_of_its_own(plant, events):
    watch = plant.open(deadline_ms=60_000)
    path = write(plant.root / "last.png")
    sent = []
    for _ in range(3):
        before = path.stat().st_ctime_ns // 1_000_000
        while path.stat().st_ctime_ns // 1_000_000 == before:
            path.write_bytes(PNG)
            os.utime(path, (1_700_000_000, 1_700_000_000))  # as a copy that preserves the time of its original
        plant.events = [Event(kind, "last.png") for kind in events]
        for capture in plant.turn(watch):
            capture.on_accepted()
            sent.append(capture)
    times = [capture.captured_at for capture in sent]
    assert times[0] == 1_700_000_000_000, "a late image"
    assert times[0] < times[1] < times[2], "jobs of the same time would be one job"
    assert [capture.deadline for capture in sent] == [captured_at + 60_000 for captured_at in times]
    watch.close()


def test_a_truncated_image_is_sent_while_a_worker_has_time_to_say_why_it_is_rejected(plant):
    watch = plant.open(deadline_ms=2000)
    write(plant.root / "half.png", PNG[:200])
    started = plant.now
    assert next(watch.captures()).part_id == "half"
    assert 0.5 < plant.now - started < 1.5
    watch.close()


def test_complete_images_that_are_deleted_before_they_are_sent_are_logged_and_counted(plant, capsys):
    watch = plant.open()
    for number in range(20):
        write(plant.root / f"{number:02}.png", png(number))
        plant.events.append(Event(Kind.CLOSED, f"{number:02}.png"))
    watch.events = plant
    sent = 0
    for capture in watch.turn(0.2):
        capture.on_accepted()
        sent += 1
        for path in plant.root.iterdir():
            path.unlink()  # while the first one waits, the camera deletes all
    plant.turn(watch)
    assert sent == 16, "those that were read together with the first one"
    assert plant.metric("vanished_images_total") == 4
    lines = [line for line in capsys.readouterr().out.splitlines() if "deleted before they were sent" in line]
    assert len(lines) == 1
    assert "count=4" in lines[0]
    assert "16.png" in lines[0]
    watch.close()


def test_a_subfolder_that_is_a_link_is_named_once_and_not_looked_into(plant, tmp_path, capsys):
    write(tmp_path / "outside" / "1.png")
    watch = plant.open()
    (plant.root / "linked").symlink_to(tmp_path / "outside")
    assert plant.captures(watch, seconds=12.0) == []
    assert capsys.readouterr().out.count("a subfolder is a symbolic link") == 1


def test_files_of_other_types_are_counted_and_said_once_for_each_suffix(plant, capsys):
    watch = plant.open()
    for name in ("a.png", "a.xml", "b.xml", "film.MP4", "film2.mp4", "notes", "Thumbs.db", ".hidden", "c.png.part"):
        write(plant.root / "sub" / name)
    plant.captures(watch, seconds=20.0)
    log = capsys.readouterr().out
    assert plant.metric("skipped_files") == 5
    assert log.count("files of this type are not sent") == 3
    for level, suffix, files in (("info", ".xml", 2), ("warning", ".mp4", 2), ("warning", "", 1)):
        (text,) = [text for text in log.splitlines() if f"suffix={suffix}" in text.split()]
        assert f"[{level}" in text
        assert f"files={files}" in text


def test_a_truncated_image_is_sent_as_it_is_after_a_longer_rest(plant):
    watch = plant.open()
    write(plant.root / "half.png", PNG[:200])
    write(plant.root / "empty.png", b"")
    started = plant.now
    captures = plant.captures(watch, seconds=5.0)
    assert sorted((capture.part_id, capture.image) for capture in captures) == [("empty", b""), ("half", PNG[:200])]
    assert plant.now - started > SETTINGS.publisher.incomplete_rest_ms / 1000


def test_an_image_that_ends_within_the_longer_rest_is_sent_once_and_whole(plant):
    watch = plant.open()
    path = write(plant.root / "slow.png", PNG[:200])
    end, read = plant.now + 1.5, plant.read

    def write_the_rest(timeout_s):
        if plant.now >= end and path.stat().st_size == 200:
            path.write_bytes(PNG)
        return read(timeout_s)

    plant.read = write_the_rest
    assert [capture.image for capture in plant.captures(watch, seconds=8.0)] == [PNG]


def test_an_empty_or_deleted_image_does_not_delay_the_next(plant):
    watch = plant.open()
    write(plant.root / "1-empty.png", b"")
    gone = write(plant.root / "2-gone.png")
    write(plant.root / "3-good.png", png(3))
    plant.events += [Event(Kind.CLOSED, path.name) for path in sorted(plant.root.iterdir())]
    captures = watch.captures()
    observe = watch.images.observe

    def observe_then_delete(path, *rest):
        observe(path, *rest)
        gone.unlink(missing_ok=True)

    watch.images.observe = observe_then_delete
    assert next(captures).part_id == "3-good"
    watch.close()


def test_the_deadline_counts_from_the_capture_and_late_images_go_last(plant):
    watch = plant.open()
    now = time.time()
    for name, age_s in (("1-late", 60), ("2-fresh", 2), ("3-ahead", -3600)):
        os.utime(write(plant.root / f"{name}.png", png(age_s % 50)), (now - age_s, now - age_s))
    captures = plant.captures(watch)
    assert [capture.part_id for capture in captures] == ["2-fresh", "3-ahead", "1-late"]
    remaining = [capture.deadline / 1000 - now for capture in captures]
    assert remaining == pytest.approx([8, 10, -50], abs=1.0 + time.time() - now)
    assert plant.metric("late_images_total") == 1


def test_a_gate_waits_for_the_whole_deadline_of_a_camera_whose_clock_is_ahead(plant):
    watch = plant.open()
    now = time.time()
    os.utime(write(plant.root / "ahead.png"), (now + 240, now + 240))
    (capture,) = plant.captures(watch)
    assert capture.deadline - capture.captured_at == 10_000
    assert capture.captured_at / 1000 == pytest.approx(now, abs=1.0 + time.time() - now)


def test_a_second_publisher_of_a_folder_and_line_is_refused_until_the_first_one_ends(plant, tmp_path):
    first = plant.open()
    link = tmp_path / "link"
    link.symlink_to(plant.root)
    for name in (plant.root, link):
        with pytest.raises(SetupError, match=rf"{name}: another publisher of line l watches this .* \(process \d+\)"):
            folder_setup.open_watch(name, "l", plant.settings, 1000, None, plant.metrics(), threading.Event())
    folder_setup.open_watch(plant.root, "m", plant.settings, 1000, None, plant.metrics(), threading.Event()).close()
    first.close()
    plant.open().close()


class LinkedPlant:
    """Folders, one of which is watched through a link."""

    def __init__(self, plant):
        self.plant, self.link = plant, plant.root / "current"
        self.folders = [plant.root / name for name in ("monday", "tuesday", "wednesday")]
        for folder in self.folders:
            folder.mkdir()

    def lead_to(self, number):
        new = self.link.with_name("new")
        new.symlink_to(self.folders[number])
        new.replace(self.link)

    def open(self):
        metrics = FolderMetrics(Registry(), "l")
        return folder_setup.open_watch(self.link, "l", self.plant.settings, 10_000, None, metrics, threading.Event())

    def watched(self):
        """Return the watch of the first folder, and its captures after the first one."""
        self.lead_to(0)
        watch = self.open()
        captures = watch.captures()
        write(self.folders[0] / "a.png", png(1))
        assert taken(captures, 1) == ["a"]
        return watch, captures


def taken(captures, count):
    """Return the part ids of the next captures, and accept them."""
    parts = []
    for capture in itertools.islice(captures, count):
        capture.on_accepted()
        parts.append(capture.part_id)
    return sorted(parts)


def test_a_link_that_leads_elsewhere_is_followed_and_the_last_images_of_the_former_folder_are_sent(plant):
    linked = LinkedPlant(plant)
    monday, tuesday, wednesday = linked.folders
    write(monday / "old.png")
    linked.lead_to(0)
    watch = linked.open()
    captures = watch.captures()
    write(monday / "a.png", png(1))
    assert taken(captures, 1) == ["a"]
    write(tuesday / "b.png", png(2))
    linked.lead_to(1)
    assert taken(captures, 1) == ["b"]
    write(monday / "c.png", png(3))
    assert taken(captures, 1) == ["c"]
    linked.lead_to(0)
    write(monday / "d.png", png(4))
    assert taken(captures, 1) == ["d"], "what was taken is remembered"
    watch.close()
    write(monday / "e.png", png(5))
    write(wednesday / "f.png", png(6))
    linked.lead_to(2)
    again = linked.open()
    assert taken(again.captures(), 2) == ["e", "f"], "also what came while no publisher ran"
    again.close()


def test_a_note_of_the_last_folder_that_a_crash_has_cut_is_left_out(plant):
    linked = LinkedPlant(plant)
    linked.lead_to(0)
    linked.open().close()
    (note,) = plant.spool.glob("l.*.link")
    assert note.read_text() == str(linked.folders[0])
    note.write_text("")
    watch = linked.open()
    assert watch._former == {}
    watch.close()


def test_a_full_disk_hides_no_image_of_the_folder_to_which_a_link_is_led_while_no_publisher_runs(plant, monkeypatch):
    linked = LinkedPlant(plant)
    watch, _ = linked.watched()
    write_bytes = Path.write_bytes

    def full(path, content):
        write_bytes(path, b"")  # it is cut before there is no room
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(Path, "write_bytes", full)
        linked.lead_to(1)
        watch._follow()
    watch.close()
    write(linked.folders[2] / "b.png", png(2))
    linked.lead_to(2)
    again = linked.open()
    assert taken(again.captures(), 1) == ["b"]
    again.close()


def test_a_link_that_leads_nowhere_is_reported_and_followed_when_it_is_mended(plant, capsys):
    linked = LinkedPlant(plant)
    watch, captures = linked.watched()
    linked.link.unlink()
    linked.link.symlink_to(plant.root / "missing")
    write(linked.folders[0] / "b.png", png(2))
    assert taken(captures, 1) == ["b"]
    assert capsys.readouterr().out.count("which is no folder") == 1
    linked.link.unlink()
    linked.lead_to(1)
    write(linked.folders[1] / "c.png", png(3))
    assert taken(captures, 1) == ["c"]
    watch.close()


def test_a_link_that_is_made_while_the_publisher_looks_is_followed_by_the_next_look(plant, monkeypatch):
    linked = LinkedPlant(plant)
    watch, captures = linked.watched()
    linked.link.unlink()
    look = os.path.realpath

    def look_first(path, **options):
        target = look(path, **options)
        if not linked.link.is_symlink():
            linked.lead_to(1)
        return target

    monkeypatch.setattr(os.path, "realpath", look_first)
    write(linked.folders[1] / "b.png", png(2))
    assert taken(captures, 1) == ["b"]
    write(linked.folders[0] / "c.png", png(3))
    assert taken(captures, 1) == ["c"]
    watch.close()


def test_a_former_folder_is_left_once_nothing_happens_in_it(plant, monkeypatch):
    monkeypatch.setattr("patchline.publisher.linked_folder.time", SimpleNamespace(monotonic=lambda: plant.now))
    linked = LinkedPlant(plant)
    linked.lead_to(0)
    watch = linked.open()
    captures = watch.captures()
    linked.lead_to(1)
    write(linked.folders[1] / "a.png", png(1))
    assert taken(captures, 1) == ["a"]
    assert len(watch._former) == 1
    plant.now += 61
    write(linked.folders[1] / "b.png", png(2))
    assert taken(captures, 1) == ["b"]
    assert watch._former == {}
    watch.close()


def test_the_category_of_each_image_comes_from_its_path_and_others_are_refused(plant, capsys):
    watch = plant.open("{category}/*")
    for name in ("bottle/1.png", "cable/2.png", "unknown/3.png"):
        write(plant.root / name, name.encode() + PNG)
    captures = plant.captures(watch)
    assert sorted((capture.part_id, capture.category) for capture in captures) == [("1", "bottle"), ("2", "cable")]
    assert plant.metric("refused_images_total") == 1
    assert plant.parts("{category}/*") == [], "the image that was refused is refused again"
    write(plant.root / "bottle" / "4.png")
    assert plant.metric("refused_images_total") == 1


def test_a_refused_image_is_sent_once_its_category_is_known(plant):
    plant.open("{category}/*").close()
    write(plant.root / "new" / "bottle_1.png")
    assert plant.parts("{category}/*") == []
    assert plant.parts("**/{category}_*") == ["bottle_1"]


def test_a_folder_that_cannot_be_read_is_reported_and_read_again_when_it_is_back(plant):
    watch = plant.open()
    write(plant.root / "1.png")
    away = plant.root.rename(plant.root.with_name("away"))
    seen, read = [], plant.read

    def bring_back(timeout_s):
        seen.append(plant.metric("watched_folder_readable"))
        if len(seen) == 20:
            away.rename(plant.root)
        return read(timeout_s)

    plant.read = bring_back
    assert [capture.part_id for capture in plant.captures(watch, seconds=20.0)] == ["1"]
    assert (seen[1], seen[-1]) == (0, 1)


def test_an_image_that_cannot_be_read_holds_up_no_other_and_is_tried_again(plant, monkeypatch):
    watch = plant.open()
    write(plant.root / "1-locked.png")
    write(plant.root / "2-good.png", png(2))
    read_file, tries = source.read_file, itertools.count()

    def locked(path):
        if path.name == "1-locked.png" and next(tries) < 2:
            raise PermissionError(13, "Permission denied")
        return read_file(path)

    monkeypatch.setattr(source, "read_file", locked)
    assert [capture.part_id for capture in plant.captures(watch, seconds=8.0)] == ["2-good", "1-locked"]
    assert plant.metric("unreadable_paths") == 0


def test_a_former_folder_does_not_count_among_what_cannot_be_read(plant):
    plant.registry = Registry()
    metrics = FolderMetrics(plant.registry, "l")
    current, former = FolderReports(plant.root, metrics), FolderReports(plant.root.with_name("former"), metrics)
    current.unreadable("1.png", "Permission denied")
    former.former = True
    former.unreadable("a/1.png", "Permission denied")
    former.unreadable("a/2.png", "Permission denied")
    assert plant.metric("unreadable_paths") == 1
    former.readable("a/2.png")
    assert plant.metric("unreadable_paths") == 1


def test_a_bookmark_of_an_earlier_version_is_migrated(plant):
    write(plant.root / "taken.png", png(1))
    plant.spool.mkdir()
    old = plant.spool / f"l.c.{bookmark.folder_id(plant.root)}.bookmark"
    old.touch()
    time.sleep(0.02)
    write(plant.root / "missed.png", png(2))
    assert plant.parts() == ["missed"]
    assert not old.exists()
    assert plant.parts() == []


def test_names_that_are_not_utf8_are_sent_and_remembered(plant):
    plant.open().close()
    write(plant.root / os.fsdecode(b"\xfe-sub") / NOT_UTF8)
    assert plant.parts() == ["cell---32812da9"], "with a hash of the name"
    assert plant.parts() == []


def test_the_states_are_metrics(plant):
    plant.open().close()
    write(plant.root / "1.png")
    assert plant.parts() == ["1"]
    assert [plant.metric("watched_images", state=state) for state in State] == [0, 0, 0, 1]


def test_a_log_line_may_name_a_file_that_is_not_utf8():
    assert json.loads(json.dumps({"path": NOT_UTF8}))["path"] == NOT_UTF8


def test_what_is_remembered_of_a_content_is_short_and_that_of_an_earlier_build_is_known():
    content = Content(PNG)
    assert len(content.digest) == 20
    assert content.has(content.digest)
    assert content.has(hashlib.blake2b(PNG, digest_size=16).digest())
    assert not content.has(hashlib.blake2b(b"", digest_size=16).digest())
    assert not Content(b"").has(content.digest)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"category": "bottle", "watch": True, "paths": [1, 2]}, "exactly one folder"),
        ({"watch": False, "paths": [1]}, "say the category of the parts"),
        ({"category": "bottle", "given": "{category}/*", "watch": True, "paths": [1]}, "or --category-from"),
        ({"category": "bottle", "hand_in": True, "watch": True, "paths": [1]}, "or --hand-in"),
        ({"given": "{category}/*", "watch": False, "paths": [1]}, "need --watch"),
        ({"hand_in": True, "watch": False, "paths": [1]}, "need --watch"),
        ({"category": "other", "watch": True, "paths": [1]}, "'other' is not configured"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(options, error):
    given = {"category": None, "given": None, "hand_in": False} | options
    with pytest.raises(SetupError, match=error):
        line._pattern(SETTINGS, **given, is_new=False)
