"""Pictures that people send to a line in the console: who may, what is refused, and what is written where."""

import os
import re
import shutil
from collections import namedtuple
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from PIL import Image

from patchline import config
from patchline.archive import opening
from patchline.broker.base import Message
from patchline.console import audit, uploads
from patchline.console.hand_in import HandIn
from patchline.console.roles import Role
from patchline.console.told import Notes, Told
from patchline.protocol import status_message
from patchline.protocol.errors import SetupError
from patchline.protocol.status_message import Status
from patchline.publisher import source
from patchline.runtime import disk
from tests.archive_contract import NOW, record
from tests.console_bench import Bench
from tests.pictures import pillow

CATEGORY = "solar_cell_mono"
PAGE = "/line/send"
HX = {"hx-request": "true"}
Usage = namedtuple("Usage", "free")


def png(seed=0, **options):
    pixels = np.random.default_rng(seed).integers(0, 255, (32, 32), dtype=np.uint8)
    return pillow(Image.fromarray(pixels), "PNG", **options)


class SendBench(Bench):
    """A console with a hand-in folder for lines `l1` and `l2`. The publisher of l2 is that of its camera only."""

    def __init__(self, folder, **settings):
        self.folder = folder / "handed"
        for line in ("l1", "l2"):
            (self.folder / line).mkdir(parents=True)
        super().__init__(folder, hand_in=HandIn(self.folder, 1_000), **settings)
        self.hear(role="publisher", line="l1", hand_in=True)
        self.hear(role="publisher", line="l2")
        self.hear(role="worker", banks={CATEGORY: "ab" * 32})

    def hear(self, **said):
        """Let the console hear a status."""
        common = {"name": "host:1", "host": "host", "state": "serving", "since": NOW, "sent_at": NOW}
        status = Status(**common | said)
        self.console.states.hear(Message(status.to_json(), None, status_message.STATUS_TYPE, "application/json"))

    def send(self, files, browser=None, **fields):
        """Send files as an engineer does. Return what the browser shows."""
        browser = browser or self.browser(Role.ENGINEER)
        form = {"csrf": browser.csrf, "line": "l1", "category": CATEGORY} | fields
        answer = browser.client.post(PAGE, data=form, files=[("files", file) for file in files])
        return (
            browser.get(answer.headers["location"]) if answer.headers.get("location", "").startswith(PAGE) else answer
        )

    def handed(self):
        """The paths of the pictures that a publisher would take."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.glob("*/*/*") if path.is_file())


@pytest.fixture
def bench(tmp_path):
    bench = SendBench(tmp_path)
    yield bench
    bench.close()


def test_pictures_are_handed_to_the_line_and_the_page_names_their_parts(bench):
    page = bench.send([("left.png", png(1)), ("left.png", png(2)), ("note.txt", b"no picture"), ("", b"")]).text
    first, second = bench.handed()
    assert re.fullmatch(rf"l1/{CATEGORY}/left-[0-9a-f]{{8}}\.png", first)
    assert first != second
    contents = {(bench.folder / path).read_bytes() for path in (first, second)}
    assert contents == {png(1), png(2)}
    ids = {source.read(bench.folder / path).part_id for path in (first, second)}
    assert all(f"{name}: on its way" in page for name in ids)
    assert "Sent: 2" in page
    assert "<bdi>note.txt</bdi>: content type" in page
    (entry,) = [one for one in audit.latest(bench.console.database, 5) if one.what == "pictures sent"]
    assert (entry.who, entry.detail.partition(": ")[0]) == ("a-engineer", f"l1, {CATEGORY}")
    assert {*entry.detail.partition(": ")[2].split(", ")} == ids
    assert list((bench.folder / ".incoming").iterdir()) == []


def test_the_page_of_as_many_parts_as_can_be_sent_shows_all_verdicts_over_one_connection(tmp_path):
    """Each part that was judged held a connection of the 15. With 16 the page waited for 30 s, and showed nothing."""
    settings = config.load(config.PACKAGED)
    paths = settings.paths.model_copy(update={"archive": tmp_path})
    with closing(opening.open_archive(settings.model_copy(update={"paths": paths}))) as archive:
        archive.prepare()
        held, bench = [], SendBench(tmp_path, archive=archive)
        sa.event.listen(archive._engine, "checkout", lambda *_: held.append(archive._engine.pool.checkedout()))
        page = bench.send([(f"{number}.png", png(number)) for number in range(20)]).text
        path = re.search(r'hx-get="([^"]+)"', page)[1].replace("&amp;", "&")
        ids = [Path(one).stem for one in bench.handed()]
        archive.save([record(f"job-{part}", part_id=part) for part in ids], [])
        held.clear()
        shown = bench.browser(Role.ENGINEER).get(path, **HX).text
        assert sorted(re.findall(r'<a href="/part/([^"]+)">', shown)) == sorted(ids)
        assert len(held) == 20
        assert {*held} == {1}
        bench.close()


def test_who_sends_pictures_after_the_end_of_the_log_in_is_told_that_nothing_was_sent(bench):
    engineer = bench.browser(Role.ENGINEER)
    engineer.client.cookies.set("patchline_session", "it has ended")
    answer = bench.send([("a.png", png())], engineer)
    assert answer.headers["location"] == "/login?to=/line/send&lost=1"
    assert "Your log-in had ended, so nothing was sent." in engineer.get(answer.headers["location"]).text
    assert "Your log-in had ended" not in engineer.get("/login?to=/line/send").text
    assert bench.handed() == []


@pytest.mark.parametrize(
    "name", ["../../../etc/x.png", "..\\..\\x.png", "/x.png", ".hidden.png", "~$x.png", "裂纹.png"]
)
def test_no_name_leaves_the_folder_or_hides_a_picture(bench, name):
    assert bench.send([(name, png())]).status_code == 200
    (path,) = bench.handed()
    assert re.fullmatch(rf"l1/{CATEGORY}/[a-z]+-[0-9a-f]{{8}}\.png", path)
    capture = source.read(bench.folder / path)
    assert capture.part_id == (bench.folder / path).stem


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"line": "l2"}, "once a publisher can be heard that takes pictures for this line: l2"),
        ({"line": "../l1"}, "once a publisher can be heard that takes pictures for this line: ../l1"),
        ({"line": ".incoming"}, "once a publisher can be heard that takes pictures for this line"),
        ({"category": "brick"}, "once a worker serves this category: brick"),
        ({"category": "../../x"}, "once a worker serves this category: ../../x"),
    ],
)
def test_what_no_publisher_or_worker_takes_is_not_sent(bench, fields, text):
    bench.hear(role="worker", line="l9", banks={"../../x": "ab" * 32})
    answer = bench.send([("a.png", png())], **fields)
    assert (answer.status_code, text in answer.text) == (409, True)
    assert bench.handed() == []


def test_a_form_that_is_not_of_this_log_in_or_role_sends_nothing(bench):
    engineer, reviewer = bench.browser(Role.ENGINEER), bench.browser(Role.REVIEW)
    files = [("a.png", png())]
    assert bench.send(files, bench.browser()).headers["location"].startswith("/login")
    assert bench.send(files, reviewer).status_code == 403
    assert bench.send(files, engineer, csrf="another").status_code == 403
    assert 'href="/line/send"' not in reviewer.get("/line").text
    assert 'href="/line/send"' in engineer.get("/line").text
    assert bench.handed() == []


def test_pictures_beyond_a_limit_are_refused_by_name(bench):
    settings = bench.console.settings
    images = settings.images.model_copy(update={"max_bytes": 10_000})
    object.__setattr__(bench.console, "settings", settings.model_copy(update={"images": images}))
    files = [("large.png", png() + bytes(9_999)), *((f"{number}.png", png(number)) for number in range(21))]
    page = bench.send(files).text
    assert "<bdi>large.png</bdi>: it is larger than images.max_bytes allows" in page
    assert "<bdi>20.png</bdi>: there are too many pictures" in page
    assert len(bench.handed()) == 20
    answer = bench.send([("all.bin", bytes(400_000))])
    assert (answer.status_code, "more bytes than there is room for" in answer.text) == (413, True)


def test_a_full_disk_is_said_before_anything_is_read(bench, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free=1_000))
    answer = bench.send([("a.png", png())])
    assert (answer.status_code, "The disk of the console is full" in answer.text) == (507, True)
    monkeypatch.undo()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "sync", full)
    answer = bench.send([("a.png", png())])
    assert (answer.status_code, "The disk of the console is full" in answer.text) == (507, True)
    assert bench.handed() == []


def test_too_many_forms_of_a_person_are_refused(tmp_path):
    bench = SendBench(tmp_path, changes_per_minute=2)
    browser = bench.browser(Role.ENGINEER)
    answers = [bench.send([("a.png", png())], browser).status_code for _ in range(2)]
    assert (answers, len(bench.handed())) == ([200, 429], 1)
    bench.close()


def test_the_page_follows_the_parts_until_each_has_a_verdict(bench):
    bench.archive.save([record()], [])
    engineer = bench.browser(Role.ENGINEER)
    path = f"{PAGE}?have=0&part=part-of-job-1"
    page = engineer.get(path).text
    assert '<a href="/part/part-of-job-1">' in page
    assert "hx-get" not in page.partition('id="sent"')[2].partition("</section>")[0]
    assert engineer.get(f"{path}&part=other", **HX).text.count("<li>") == 2
    assert engineer.get(f"{PAGE}?have=1&part=part-of-job-1", **HX).status_code == 204


def test_what_lies_turned_is_said(bench):
    exif = Image.Exif()
    exif[0x0112] = 6
    pages = [bench.send([("a.png", png(exif=tags))]).text for tags in (exif, Image.Exif())]
    assert ["to be turned when they are shown (EXIF): 1." in page for page in pages] == [True, False]


def test_before_a_worker_serves_a_category_the_page_says_what_to_do(bench):
    bench.pass_time(10)
    page = bench.browser(Role.ENGINEER).get(PAGE).text
    assert "No worker serves a category yet." in page
    assert 'type="file"' not in page


def test_what_was_handed_in_a_week_ago_is_deleted(bench):
    bench.send([("old.png", png())])
    bench.console.hand_in.sweep()
    assert len(bench.handed()) == 1
    later(bench, 8).sweep()
    assert bench.handed() == []


def later(bench, days):
    """The folder some days from now."""
    return HandIn(bench.folder, 0, lambda: bench.folder.stat().st_mtime + days * 86_400)


def test_files_that_the_console_has_not_written_are_never_deleted(bench):
    others = ["l1/brick/2026-11-29.png", "l1/brick/part-1.png", "l1/notes/readme.txt", "l2/brick/a-0123456x.png"]
    for name in others:
        (bench.folder / name).parent.mkdir(exist_ok=True)
        (bench.folder / name).write_bytes(png())
    bench.send([("old.png", png())])
    left = bench.folder / ".incoming" / "killed"
    left.mkdir()
    (left / "0").write_bytes(b"half")
    later(bench, 8).sweep()
    assert bench.handed() == sorted(others)
    assert not (left / "0").exists()


def test_a_file_that_cannot_be_deleted_keeps_nobody_from_sending(bench, monkeypatch):
    bench.send([("old.png", png())])
    os.utime(bench.folder / bench.handed()[0], (0, 0))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert bench.send([("new.png", png())]).status_code == 200
    assert len(bench.handed()) == 2


def test_a_full_disk_is_freed_of_what_is_a_week_old_before_room_is_asked_for(bench, monkeypatch):
    bench.send([("old.png", png())])
    old = bench.folder / bench.handed()[0]
    os.utime(old, (0, 0))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free=1_000 if old.exists() else 10_000_000))
    assert bench.send([("new.png", png())]).status_code == 200
    assert [Path(name).name[:4] for name in bench.handed()] == ["new-"]


def test_without_a_folder_there_is_no_page_and_no_link(tmp_path):
    bench = Bench(tmp_path)
    engineer = bench.browser(Role.ENGINEER)
    assert engineer.get(PAGE).status_code == 404
    form = {"csrf": engineer.csrf, "line": "l1", "category": CATEGORY}
    assert engineer.client.post(PAGE, data=form, files=[("files", ("a.png", png()))]).status_code == 404
    assert PAGE not in engineer.get("/line").text
    bench.close()
    with pytest.raises(SetupError, match="needs an existing folder"):
        HandIn(tmp_path / "none", 0)


def test_a_line_is_offered_only_while_its_own_publisher_of_sent_pictures_is_heard(bench):
    engineer = bench.browser(Role.ENGINEER)
    options = re.compile(r"<option[^>]*>(\w+)</option>")
    assert options.findall(engineer.get(PAGE).text) == ["l1", CATEGORY]
    bench.pass_time(4)
    bench.hear(role="worker", banks={CATEGORY: "ab" * 32})
    bench.hear(role="publisher", line="l2")
    bench.hear(role="publisher", line="l1", name="host:2")
    page = engineer.get(PAGE).text
    assert "No publisher of a line that takes pictures from here can be heard." in page
    assert bench.send([("a.png", png())]).status_code == 409
    assert bench.handed() == []


def test_a_form_without_pictures_says_that_nothing_was_sent(bench):
    answer = bench.send([("", b"")])
    assert (answer.status_code, "No picture was chosen, so nothing was sent." in answer.text) == (400, True)


def test_if_the_disk_is_full_in_between_the_page_names_what_was_sent_and_what_was_not(bench, monkeypatch):
    put, handed = bench.console.hand_in.put, []

    def put_two(*values):
        if len(handed) == 2:
            raise disk.full(bench.folder)
        handed.append(put(*values))
        return handed[-1]

    monkeypatch.setattr(bench.console.hand_in, "put", put_two)
    answer = bench.send([(f"{number}.png", png(number)) for number in range(4)])
    assert (answer.status_code, "Sent: 2" in answer.text) == (200, True)
    assert all(f"{name}: on its way" in answer.text for name in handed)
    assert [name for name in ("1.png", "2.png", "3.png") if f"<li><bdi>{name}</bdi>: " in answer.text] == [
        "2.png",
        "3.png",
    ]
    assert "the disk is full" in answer.text
    (entry,) = [one for one in audit.latest(bench.console.database, 5) if one.what == "pictures sent"]
    assert entry.detail == f"l1, {CATEGORY}: {', '.join(handed)}"


@pytest.mark.parametrize("harm", ["gone", "read-only"])
def test_a_folder_that_cannot_be_used_any_more_is_named_and_nothing_is_sent(bench, harm, monkeypatch):
    if harm == "gone":
        shutil.rmtree(bench.folder)
    else:
        monkeypatch.setattr(uploads.tempfile, "mkdtemp", failing(OSError(30, "Read-only file system")))
    answer = bench.send([("a.png", png())])
    assert (answer.status_code, str(bench.folder) in answer.text) == (503, True)
    assert bench.folder.exists() == (harm != "gone")  # or pictures would go to the disk below a lost mount


def failing(error):
    def fail(*_, **__):
        raise error

    return fail


def test_a_part_without_a_verdict_in_time_and_one_that_is_too_late_are_explained(bench):
    engineer = bench.browser(Role.ENGINEER)
    page = bench.send([("a.png", png())], engineer).text
    path = re.search(r'hx-get="([^"]+)"', page)[1].replace("&amp;", "&")
    (part,) = (Path(name).stem for name in bench.handed())
    assert engineer.get(path, **HX).status_code == 204
    bench.pass_time(bench.console.settings.publisher.deadline_ms / 1000 + 6)
    late = engineer.get(path, **HX).text
    assert f"{part}: no verdict in time" in late
    assert "A verdict must come within 10 s of" in late
    path = re.search(r'hx-get="([^"]+)"', late)[1].replace("&amp;", "&")
    assert engineer.get(path, **HX).status_code == 204
    bench.archive.save([record(part_id=part, decision="expired", score=None, thresholds=None)], [])
    done = engineer.get(path, **HX).text
    assert '<span class="result expired">too late</span>' in done
    assert "A verdict must come within 10 s of" in done
    assert "Review the rejects" not in done
    assert "hx-get" not in done


def test_a_part_that_was_judged_in_time_needs_no_explanation(bench):
    bench.archive.save([record()], [])
    bench.pass_time(600)
    page = bench.browser(Role.ENGINEER).get(f"{PAGE}?at={NOW}&part=part-of-job-1").text
    assert "A verdict must come within" not in page
    assert "Review the rejects" in page


@pytest.mark.parametrize("at", ["", "x", "-1", "9" * 40, "٣"])
def test_a_time_that_somebody_has_made_up_is_no_error(bench, at):
    assert bench.browser(Role.ENGINEER).get(f"{PAGE}?at={at}&part=a").status_code == 200


def test_another_picture_of_the_same_name_is_sent_also_from_the_same_form(bench):
    engineer = bench.browser(Role.ENGINEER)
    form = {"once": re.search(r'name="once" value="([^"]+)"', engineer.get(PAGE).text.partition('id="form"')[2])[1]}
    first, again, other = (bench.send([("image.jpg", png(seed))], engineer, **form).text for seed in (1, 1, 2))
    assert re.findall(r"image-\w+", first) == re.findall(r"image-\w+", again)
    assert len(bench.handed()) == 2
    assert all(name in first + other for name in (Path(one).stem for one in bench.handed()))


def test_the_page_of_sent_pictures_can_be_loaded_again_and_come_back_to_also_after_a_restart(bench):
    engineer = bench.browser(Role.ENGINEER)
    exif = Image.Exif()
    exif[0x0112] = 6
    form = {"csrf": engineer.csrf, "line": "l1", "category": CATEGORY}
    files = [("files", one) for one in (("a.png", png(exif=exif)), ("note.txt", b"no picture"))]
    answer = engineer.client.post(PAGE, data=form, files=files)
    assert answer.status_code == 303
    (part,) = (Path(one).stem for one in bench.handed())
    path = answer.headers["location"]
    pages = [engineer.get(path).text, engineer.get(path).text, engineer.get(f"{path}&lang=de").text]
    assert all(f"{part}: " in page and "<bdi>note.txt</bdi>: " in page and "(EXIF)" in page for page in pages)
    assert re.search(r"<option selected>(\w+)</option>", pages[0])[1] == "l1"
    object.__setattr__(bench.console, "notes", Notes())
    assert f"{part}: " in engineer.get(path).text
    assert len(bench.handed()) == 1


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("裂纹1.png", " (<bdi>裂纹1.png</bdi>):"),
        ("<b>.png", " (<bdi>&lt;b&gt;.png</bdi>):"),
        ("\u202egnp.exe.png", " (<bdi>\u202egnp.exe.png</bdi>):"),  # turns what follows it outside of the element
        ("a-1.png", ":"),
    ],
)
def test_a_file_whose_name_no_part_can_have_is_named_beside_its_part(bench, name, shown):
    page = bench.send([(name, png())]).text
    (part,) = (Path(one).stem for one in bench.handed())
    assert f"{part}{shown} on its way" in page
    bench.archive.save([record(part_id=part)], [])
    path = re.search(r'hx-get="([^"]+)"', page)[1].replace("&amp;", "&")
    assert f"{part}</a>{shown}" in bench.browser(Role.ENGINEER).get(path, **HX).text


def test_a_category_whose_folder_publishers_leave_out_is_not_offered_and_the_page_says_so(bench):
    bench.hear(role="worker", name="host:2", banks={CATEGORY: "ab" * 32, "Thumbs": "ab" * 32})
    page = bench.browser(Role.ENGINEER).get(PAGE).text
    assert "publishers leave out folders of such names: Thumbs" in page
    assert "<option>Thumbs</option>" not in page
    assert bench.send([("a.png", png())], category="Thumbs").status_code == 409
    assert bench.handed() == []


def test_of_what_is_told_the_newest_is_kept():
    notes = Notes()
    keys = [notes.keep(Told(turned=number + 1)) for number in range(101)]
    assert [notes.of(key).turned for key in (keys[0], keys[1], keys[100])] == [0, 2, 101]
    assert notes.keep(Told()) == ""
