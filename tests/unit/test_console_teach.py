"""Lessons in the console: uploads, pictures of the archive, fits in a process of their own, and what became of them."""

import io
import os
import re
import sys
import time
from collections import deque
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image

from patchline import config
from patchline.console import audit, lesson_fit, lesson_plot
from patchline.console.lesson_files import JudgedDefect, Outlier, Result, Run
from patchline.console.lessons import Lesson
from patchline.console.roles import Role
from patchline.console.teacher import Busy, Teacher
from patchline.console.uploads import Limits, Receiver
from patchline.console.visit import Refused
from patchline.evaluation import held_out_figures, intervals
from patchline.inspection.memory_bank import FlaggedShare
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Thresholds
from patchline.runtime import terminal
from tests.archive_contract import NOW, record
from tests.console_bench import Bench
from tests.ledger_contract import entry, judgement
from tests.pictures import pillow

CATEGORY = "solar_cell_mono"
WAITS = [sys.executable, "-c", "import sys; sys.stdin.read()"]
BOUNDARY = "b0undary"


def png(seed=0, side=32):
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side), dtype=np.uint8)
    return pillow(Image.fromarray(pixels), "PNG")


def child(folder, text):
    """The command of a process that does what a fit may do. `folder` is that of its lesson, in `sys.argv[1]`."""
    script = folder / "child.py"
    script.write_text(f"import json, os, pathlib, signal, sys\nfolder = pathlib.Path(sys.argv[1])\n{text}\n")
    return [sys.executable, str(script)]


@pytest.fixture
def bench(tmp_path):
    """A console with a store, whose fits wait until they are ended."""
    made = make_bench(tmp_path)
    yield made
    made.close()


def make_bench(folder, fits=WAITS, **settings):
    return Bench(folder, new_like=CATEGORY, fits=fits, **settings)


def begin(browser, category=CATEGORY):
    answer = browser.post("/teach", {"category": category})
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def send(browser, path, files, **fields):
    form = {"csrf": browser.csrf, "label": "good"} | fields
    answer = browser.client.post(path, data=form, files=[("files", (name, body)) for name, body in files])
    return browser.get(answer.headers["location"]) if answer.headers.get("location", "").startswith(path) else answer


def lesson_of(bench, path):
    return bench.console.lessons.find(path.rpartition("/")[2])


def wait_for_end(bench, lesson):
    deadline = time.monotonic() + 20
    while bench.console.teacher.busy_with is not None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return lesson.run


def log(bench):
    return [(one.who, one.what) for one in audit.latest(bench.console.database, 10) if one.what != "logged in"]


def test_pictures_are_added_and_what_is_none_is_refused_by_name(bench):
    browser = bench.browser(Role.ENGINEER)
    path = begin(browser)
    files = [
        ("a.png", png(1)),
        ("a.png", png(2)),
        ("../../b c.jpg", png(3)),
        ("small.png", png(side=8)),
        ("note.txt", b"no picture"),
        ("cut.png", png(4)[:300]),
        ("", b""),
    ]
    page = send(browser, path, files).text
    assert "3 pictures were added." in page
    assert re.search(r"A version takes \d+ good parts or more, and a trial 10\.", page)
    assert "<bdi>small.png</bdi>: 8 x 8 pixels; images.min_side_pixels is 16" in page
    assert "<bdi>note.txt</bdi>: content type" in page
    assert "<li><bdi>cut.png</bdi>: " in page
    lesson = lesson_of(bench, path)
    assert lesson.good() == ["a-2.png", "a.png", "b_c.png"]
    assert (lesson.good_folder / "a.png").read_bytes() == png(1)
    assert sorted(one.name for one in lesson.folder.parent.iterdir()) == [".incoming", lesson.id]
    assert list((lesson.folder.parent / ".incoming").iterdir()) == []
    assert "2 defects" not in page
    page = send(browser, path, [("c.png", png(5))], label="defect", kind="scratch").text
    assert "Defects: 1" in page
    assert lesson.defects() == [("scratch", "c.png")]
    for picture in ("good/a.png", "good/b_c.png", "scratch/c.png"):
        answer = browser.get(f"{path}/small/{picture}")
        assert answer.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(answer.content)).size == (32, 32)
    for nothing in ("good/d.png", "good/..%2F..%2Flesson.json", "..%2F..%2Fa/b.png", "scratch/a.png"):
        assert browser.get(f"{path}/small/{nothing}").status_code == 404
    assert browser.get(f"{path}/tile/..%2Flesson.json").status_code == 404
    assert log(bench) == [("a-engineer", "pictures added")] * 2 + [("a-engineer", "lesson begun")]


def test_what_exceeds_a_limit_is_not_kept(tmp_path):
    bench = make_bench(tmp_path, teach=config.Teach(max_pictures=2, max_bytes=5_000_000))
    images = bench.console.settings.images.model_copy(update={"max_bytes": 10_000})
    object.__setattr__(bench.console, "settings", bench.console.settings.model_copy(update={"images": images}))
    browser = bench.browser(Role.ENGINEER)
    path = begin(browser)
    files = [("large.png", png(1) + bytes(9_999)), *((f"{number}.png", png(number)) for number in range(3))]
    page = send(browser, path, files).text
    assert "2 pictures were added." in page
    assert "<bdi>large.png</bdi>: it is larger than images.max_bytes allows" in page
    assert "<bdi>2.png</bdi>: there are too many pictures" in page
    lesson = lesson_of(bench, path)
    assert (lesson.good(), lesson.size()) == (["0.png", "1.png"], (2, len(png(0)) + len(png(1))))
    answer = send(browser, path, [("all.bin", bytes(5_200_000))])
    assert (answer.status_code, "more bytes than there is room for" in answer.text) == (413, True)
    bench.close()


def test_a_form_with_files_is_refused_before_it_is_read_unless_it_comes_from_this_page(bench):
    engineer, reviewer = bench.browser(Role.ENGINEER), bench.browser(Role.REVIEW)
    path = begin(engineer)
    lesson = lesson_of(bench, path)
    files = [("a.png", png())]
    assert bench.browser().client.post(path, files=[("files", files[0])]).headers["location"].startswith("/login")
    assert send(reviewer, path, files).status_code == 403
    assert send(engineer, path, files, csrf="another").status_code == 403
    first = {"files": files[0]}
    assert engineer.client.post(path, files=first).status_code == 403, "the token comes too late"
    crossed = engineer.client.post(
        path, data={"csrf": engineer.csrf}, files=first, headers={"sec-fetch-site": "cross-site"}
    )
    assert crossed.status_code == 403
    assert engineer.post(path).status_code == 400, "another kind of form"
    cut = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="csrf"\r\n\r\n{engineer.csrf}'
    kind = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
    assert engineer.client.post(path, content=cut, headers=kind).status_code == 400
    assert engineer.client.post(path, content=b"\r\n", headers=kind).status_code == 400
    assert lesson.good() == []
    assert list((lesson.folder.parent / ".incoming").iterdir()) == []
    assert send(engineer, "/teach/1700000000000-00000000", files).status_code == 404


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_a_form_is_read_in_pieces_of_any_size(tmp_path, size):
    bodies = [b"", b"\r\n--" + BOUNDARY.encode()[:-1], bytes(range(256)) * 20]
    parts = [b'content-disposition: form-data; name="csrf"\r\n\r\ntoken']
    for number, body in enumerate(bodies):
        head = f'content-disposition: form-data; name="files"; filename="{number}.png"\r\n\r\n'
        parts.append(head.encode() + body)
    form = b"".join(b"--" + BOUNDARY.encode() + b"\r\n" + part + b"\r\n" for part in parts)
    form += b"--" + BOUNDARY.encode() + b"--\r\n"
    limits = Limits(tmp_path, 10, 100_000, 1_000_000)
    receiver = Receiver(f"multipart/form-data; boundary={BOUNDARY}", len(form), "token", limits)
    for start in range(0, len(form), size):
        receiver.feed(form[start : start + size])
    assert [(one.name, one.path.read_bytes()) for one in receiver.files()] == [
        (f"{number}.png", body) for number, body in enumerate(bodies)
    ]
    assert receiver.fields() == {"csrf": ("token",)}
    receiver.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fields", [30, 1])
def test_fields_that_are_many_or_long_are_refused(tmp_path, fields):
    value = "x" * (5_000 if fields == 1 else 5)
    part = f'--{BOUNDARY}\r\ncontent-disposition: form-data; name="n"\r\n\r\n{value}\r\n'
    receiver = Receiver(f"multipart/form-data; boundary={BOUNDARY}", None, "token", Limits(tmp_path, 1, 10, 100_000))
    with pytest.raises(Refused) as refused:
        receiver.feed(part.encode() * fields)
    assert refused.value.status == 413
    receiver.close()


def test_a_lesson_is_of_a_category_that_the_line_can_judge(tmp_path):
    bench = make_bench(tmp_path)
    browser = bench.browser(Role.ENGINEER)
    page = browser.get(begin(browser, "brand_new")).text
    assert "This category is new." in page
    assert "Add good pictures first." in page
    for name in ("", "a b", "../x", "x" * 64):
        assert browser.post("/teach", {"category": name}).status_code == 400
    assert "brand_new" in browser.get("/teach").text
    bench.close()
    (tmp_path / "other").mkdir()
    bench = Bench(tmp_path / "other")
    browser = bench.browser(Role.ENGINEER)
    answer = browser.post("/teach", {"category": "brand_new"})
    assert (answer.status_code, "set banks.new_categories_like" in answer.text) == (400, True)
    bench.close()
    (tmp_path / "none").mkdir()
    bench = Bench(tmp_path / "none", with_banks=False)
    browser = bench.browser(Role.ENGINEER)
    assert "no store of memory banks is configured" in browser.get("/teach").text
    assert browser.post("/teach", {"category": CATEGORY}).status_code == 404
    bench.close()


def test_pictures_come_from_the_archive_by_what_people_say_of_parts(bench):
    said = {"p1": None, "p2": "good", "p3": ("defect", "dent"), "p4": None, "p5": ("defect", None), "p6": "unsure"}
    for number, (job, label) in enumerate(said.items()):
        decision = "fail" if job == "p5" else "pass"
        bench.archive.save([record(job, category=CATEGORY, decision=decision, decided_at=NOW + number)], [])
        if job != "p4":
            bench.keep_picture(job, body=png(number), category=CATEGORY)
        if label is not None:
            word, kind = label if isinstance(label, tuple) else (label, None)
            bench.archive.save_ledger([entry(judgement(job, word, kind=kind))], [])
    browser = bench.browser(Role.ENGINEER)
    found = {}
    for source in ("passed", "good", "defect"):
        path = begin(browser)
        answer = browser.post(f"{path}/archive", {"source": source, "count": "10"})
        lesson = lesson_of(bench, path)
        found[source] = lesson.good() or lesson.defects()
        count = len(found[source])
        assert answer.headers["location"] == f"{path}?added={count}&without=0"
        assert f"{count} pictures were added." in browser.get(answer.headers["location"]).text
    assert found == {
        "passed": ["part-of-p1.png", "part-of-p2.png"],
        "good": ["part-of-p2.png"],
        "defect": [("defect", "part-of-p5.png"), ("dent", "part-of-p3.png")],
    }
    path = begin(browser)
    browser.post(f"{path}/archive", {"source": "passed", "count": "1"})
    assert lesson_of(bench, path).good() == ["part-of-p2.png"], "the latest first"
    for form in ({"source": "all", "count": "1"}, {"source": "good", "count": "x"}, {"source": "good", "since": "?"}):
        assert browser.post(f"{path}/archive", form).status_code == 400
    other = begin(browser, "solar_cell_poly")
    browser.post(f"{other}/archive", {"source": "passed", "count": "10"})
    assert lesson_of(bench, other).good() == []


def test_a_fit_goes_on_while_its_page_is_left_and_can_be_cancelled(bench):
    browser = bench.browser(Role.ENGINEER)
    path, other = begin(browser), begin(browser, "solar_cell_poly")
    send(browser, path, [("a.png", png())])
    assert browser.post(f"{path}/fit").headers["location"] == path
    lesson = lesson_of(bench, path)
    lesson.report(lesson.run.model_copy(update={"step": "features", "done": 3, "total": 20}))
    page = browser.get(path).text
    assert 'hx-trigger="every 1s"' in page
    assert 'value="3" max="20"' in page
    assert "It describes the pictures." in page
    assert 'type="file"' not in page
    partial = browser.get(f"{path}/run", **{"hx-request": "true"})
    assert (partial.status_code, "<html" in partial.text, "3 / 20" in partial.text) == (200, False, True)
    have = re.search(r'hx-get="([^"]+)"', page)[1].replace("%3A", ":")
    assert have == f"{path}/run?have=features:3"
    assert browser.get(have, **{"hx-request": "true"}).status_code == 204, "nothing is new"
    assert browser.get(f"{path}/run").headers["location"] == path, "without scripts"
    assert send(browser, path, [("b.png", png(1))]).status_code == 409
    answer = browser.post(f"{other}/fit")
    assert (answer.status_code, "solar_cell_mono is being fitted" in answer.text) == (409, True)
    assert browser.post(f"{path}/fit").status_code == 409
    assert browser.post(f"{path}/delete", {"sure": "yes"}).status_code == 409
    assert "is being fitted" in browser.get("/teach").text
    assert browser.post(f"{path}/cancel").status_code == 303
    page = browser.get(path).text
    assert "The fit was cancelled. No version was made." in page
    assert "hx-trigger" not in page
    ended = browser.get(f"{path}/run", **{"hx-request": "true"})
    assert ended.headers["hx-redirect"] == path, "the whole page comes anew"
    assert browser.post(f"{path}/cancel").status_code == 303, "once more does nothing"
    assert browser.post(f"{path}/fit").status_code == 303
    assert log(bench)[:3] == [
        ("a-engineer", "fit started"),
        ("a-engineer", "fit cancelled"),
        ("a-engineer", "fit started"),
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL. The memory may not suffice"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "was ended by SIGTERM. No version was made"),
        ("raise MemoryError('no room')", "ended with code 1; MemoryError: no room"),
        ("sys.exit(3)", "ended with code 3; it said nothing"),
        ("sys.exit(74)", "the disk is full, so no version was made; make room, and fit again"),
    ],
)
def test_a_fit_that_ends_without_a_result_says_why(tmp_path, text, problem):
    bench = make_bench(tmp_path, child(tmp_path, text))
    browser = bench.browser(Role.ENGINEER)
    path = begin(browser)
    browser.post(f"{path}/fit")
    run = wait_for_end(bench, lesson_of(bench, path))
    assert (run.state, problem in run.problem) == ("failed", True), run.problem
    assert problem in browser.get(path).text
    assert browser.post(f"{path}/fit").status_code == 303, "it can be tried again"
    bench.close()


def test_a_console_that_ends_ends_its_fit_and_the_next_one_says_so(tmp_path):
    bench = make_bench(tmp_path)
    path = begin(bench.browser(Role.ENGINEER))
    lesson = lesson_of(bench, path)
    bench.console.teacher.start(lesson, "anna")
    with pytest.raises(Busy):
        bench.console.teacher.start(lesson, "anna")
    process = bench.console.teacher._fitted[1]
    bench.close()
    assert process.poll() is not None
    assert (lesson.run.state, "the console ended meanwhile" in lesson.run.problem) == ("failed", True)
    lesson.report(Run(state="running", by="anna", began_at=NOW))  # as after a power failure
    Teacher(bench.console.lessons, bench.console.settings, lambda: NOW)
    assert (lesson.run.state, lesson.run.problem) == (
        "failed",
        "the console ended meanwhile; no version was made, so fit again",
    )


def test_a_fit_that_cannot_be_started_says_why(tmp_path):
    bench = make_bench(tmp_path, [str(tmp_path / "missing")])
    lesson = bench.console.lessons.begin(CATEGORY, "anna")
    with pytest.raises(SetupError, match="cannot be started"):
        bench.console.teacher.start(lesson, "anna")
    assert lesson.run.state == "failed"
    bench.close()


def test_a_fit_gets_the_configuration_of_the_console_without_passwords(tmp_path, monkeypatch):
    monkeypatch.setenv("PATCHLINE_AMQP_URL", "amqp://u:secret@h")
    bench = make_bench(tmp_path)
    lesson = bench.console.lessons.begin(CATEGORY, "anna")
    secret = bench.console.settings.broker.model_copy(update={"url": "amqp://u:secret@h"})
    settings = bench.console.settings.model_copy(update={"broker": secret})
    says = child(tmp_path, "print(*os.environ, flush=True)\nsys.stdin.read()")
    teacher = Teacher(bench.console.lessons, settings, lambda: NOW, says)
    teacher.start(lesson, "anna")
    said = lesson.folder / "log.txt"
    deadline = time.monotonic() + 20
    while "PATH" not in said.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert "PATCHLINE" not in said.read_text()
    written = lesson.folder / "settings.yaml"
    assert "secret" not in written.read_text()
    assert config.load(written).categories == settings.categories
    assert config.load(written).banks == settings.banks
    teacher.close()
    bench.close()


def test_what_a_person_says_of_pictures_that_stand_out_is_kept_for_the_next_fit(bench):
    browser = bench.browser(Role.ENGINEER)
    path = begin(browser)
    send(browser, path, [(f"{number}.png", png(number)) for number in range(4)])
    lesson = lesson_of(bench, path)
    (lesson.folder / "tiles").mkdir()
    (lesson.folder / "tiles" / "0.jpg").write_bytes(b"a tile")
    found = (
        Outlier(name="1.png", score=2.5, p_value=0.001, tile="0.jpg"),
        Outlier(name="2.png", score=2, p_value=0.01),
    )
    lesson.report(Run(state="outliers", by="anna", began_at=NOW, outliers=found))
    page = browser.get(path).text
    assert "2.5 times as far from the others" in page
    assert f'src="{path}/tile/0.jpg"' in page
    assert f'src="{path}/small/good/2.png"' in page, "it was not drawn"
    assert page.count('name="seen"') == 2
    assert page.count(" checked>") == 2
    assert browser.get(f"{path}/tile/0.jpg").content == b"a tile"
    form = {"seen": ["1.png", "2.png", "made up"], "leave": ["1.png", "3.png", "made up"], "trial": "yes"}
    browser.post(f"{path}/fit", form)
    note = lesson.note
    assert (note.left_out, note.accepted, note.trial) == (("1.png", "3.png"), ("2.png",), True)
    browser.post(f"{path}/cancel")
    browser.post(f"{path}/fit", {"leave": "2.png"})
    note = lesson.note
    assert (note.left_out, note.accepted, note.trial) == (("2.png",), (), False)


def result(**changes):
    values = {
        "version": "ab" * 32,
        "thresholds": Thresholds(review=900.0, fail=1000.0),
        "good_images": 3,
        "good_scores": (100.0, 500.0, 800.0),
        "flagged": FlaggedShare(expected=0.05, lower=0.01, upper=0.1),
        "failed": FlaggedShare(expected=0.01, lower=0.0, upper=0.03),
        "left_out": {"exact copies": 2},
    }
    return Result(**values | changes)


def test_a_version_is_shown_with_its_figures_and_their_ranges(bench):
    browser = bench.browser(Role.ENGINEER)
    path = begin(browser)
    lesson = lesson_of(bench, path)
    send(browser, path, [("c.png", png())], label="defect", kind="dent")
    lesson.report(Run(state="done", by="anna", began_at=NOW, result=result()))
    page = browser.get(path).text
    assert "Version abababababab was made. It judges nothing yet." in page
    assert f'href="/banks/{CATEGORY}"' in page
    assert "50 (10 – 100)" in page
    assert "2: exact copies" in page
    assert "unknown: add pictures of defects to measure it" in page
    defects = (
        JudgedDefect(kind="dent", name="c.png", score=700.0, decision="pass"),
        JudgedDefect(kind="dent", name="d.png", score=2000.0, decision="fail"),
    )
    figures = held_out_figures.of_defects(np.array([100.0, 500.0, 800.0]), np.array([700.0, 2000.0]), 1, 0.01)
    lesson.report(Run(state="done", by="anna", began_at=NOW, result=result(defects=defects, figures=figures)))
    page = browser.get(path).text
    assert "83.3 %" in page
    assert "50.0 % (1.3 – 98.7 %)" in page
    assert f'src="{path}/small/dent/c.png"' in page
    assert f'src="{path}/small/dent/d.png"' not in page.split("Defects that pass:")[1].split("</ul>")[0]
    assert page.count("<circle") == 5
    for language in ("de", "zh"):
        assert browser.get(f"{path}?lang={language}").status_code == 200


def test_figures_of_defects_are_those_of_the_evaluation():
    good, defects = np.array([1.0, 2.0, 3.0, 10.0]), np.array([2.5, 11.0, 12.0])
    figures = held_out_figures.of_defects(good, defects, 1, 0.25)
    assert figures.auroc == intervals.auroc(good, defects)
    assert figures.auroc.value == pytest.approx(10 / 12)
    assert figures.missed == intervals.share(1, 3)
    assert figures.missed_at_asked_rate.value == pytest.approx(1 / 3)
    assert figures.missed_at_asked_rate.high >= intervals.share(1, 3).high


def test_points_lie_on_one_scale():
    defect = JudgedDefect(kind="dent", name="d.png", score=2000.0, decision="fail")
    plot = lesson_plot.plot(result(defects=(defect,)))
    assert (plot.good, plot.defects) == ([40.4, 26.0, 6.8], [98.0])
    assert (plot.review, plot.fail) == (45.2, 50.0)


def test_a_version_that_is_a_trial_is_shown_without_a_score_from_which_a_part_fails(bench):
    browser = bench.browser(Role.ENGINEER)
    path = begin(browser)
    made = result(thresholds=Thresholds(review=900.0, fail=1777.0, trial=True), failed=None)
    lesson_of(bench, path).report(Run(state="done", by="anna", began_at=NOW, result=made))
    page = browser.get(path).text
    assert "never: the memory bank is a trial" in page
    assert "The line is the threshold of review." in page
    assert "1777" not in page
    assert 'line class="fail"' not in page
    assert lesson_plot.plot(made).review == 98.0


def test_a_lesson_leaves_when_nobody_has_touched_it_for_long_or_when_somebody_deletes_it(bench):
    bench.now = int(time.time() * 1000)
    browser = bench.browser(Role.ENGINEER)
    old, deleted, kept = (begin(browser) for _ in range(3))
    answer = browser.post(f"{deleted}/delete")
    assert answer.status_code == 400
    assert "nothing was deleted" in answer.text
    assert browser.post(f"{deleted}/delete", {"sure": "yes"}).headers["location"] == "/teach"
    assert lesson_of(bench, deleted) is None
    assert browser.get(deleted).status_code == 404
    days = bench.console.settings.console.teach.keep_days
    bench.now += (days * 86_400 - 60) * 1000
    bench.console.lessons.sweep()
    assert lesson_of(bench, old) is not None
    bench.now += 120_000
    later = Lesson(lesson_of(bench, kept).folder)
    touched = (bench.now - 1000) * 1_000_000
    os.utime(later.folder / "lesson.json", ns=(touched, touched))
    bench.console.lessons.sweep()
    assert [lesson.id for lesson in bench.console.lessons.all()] == [later.id]
    assert log(bench)[0] == ("a-engineer", "lesson deleted")


def test_a_damaged_lesson_says_so_and_does_not_hide_the_others(bench):
    browser = bench.browser(Role.ENGINEER)
    path, other = begin(browser), begin(browser, "solar_cell_poly")
    (lesson_of(bench, path).folder / "lesson.json").write_text("{")
    answer = browser.get(path)
    assert (answer.status_code, "delete this lesson" in answer.text) == (503, True)
    page = browser.get("/teach").text
    assert other in page
    assert path not in page


def test_a_store_that_is_away_starts_no_fit(bench):
    browser = bench.browser(Role.ENGINEER)
    path = begin(browser)
    bench.bank_objects.available = False
    answer = browser.post(f"{path}/fit")
    assert (answer.status_code, "store of memory banks cannot be used" in answer.text) == (503, True)
    assert lesson_of(bench, path).run is None


def test_what_bars_show_is_told(capsys, monkeypatch):
    monkeypatch.setattr(terminal, "_newest", deque(maxlen=1))  # without the bars of earlier tests
    told = []
    with terminal.followed(lambda *step: told.append(step), every_s=0.01), terminal.progress() as bars:
        for _ in bars.track(range(4), description="features"):
            deadline = time.monotonic() + 5
            while (not told or told[-1][1] < len(told) - 1) and time.monotonic() < deadline:
                time.sleep(0.01)
    assert told
    assert {(title, total) for title, _, total in told} == {("features", 4)}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    count = len(told)
    time.sleep(0.05)
    assert len(told) == count, "nothing is told after the block"


def test_a_page_shows_the_steps_that_a_fit_tells(bench, monkeypatch):
    browser = bench.browser(Role.ENGINEER)
    path = begin(browser)
    send(browser, path, [("a.png", png())])
    browser.post(f"{path}/fit")
    lesson, shown = lesson_of(bench, path), []

    @contextmanager
    def followed(tell):
        for bar in (("features", 3, 24), ("held-out coresets", 5, 24)):
            tell(*bar)
            shown.append(browser.get(path).text)
        yield

    monkeypatch.setattr(lesson_fit.terminal, "followed", followed)
    with pytest.raises(SetupError, match="1 good"):
        lesson_fit.fit_lesson(lesson, bench.console.settings, lesson.run)
    for page, step, value in zip(
        shown, ("It describes the pictures", "It leaves out each picture"), (3, 5), strict=True
    ):
        assert step in page
        assert f'value="{value}" max="24"' in page


def test_a_fit_that_has_said_how_it_ended_delays_no_other_one(tmp_path):
    text = 'run = json.loads((folder / "run.json").read_text()) | {"state": "outliers"}\n'
    text += '(folder / "new").write_text(json.dumps(run))\n'
    text += '(folder / "new").rename(folder / "run.json")\nsys.stdin.read()'
    bench = make_bench(tmp_path, child(tmp_path, text))
    lesson = bench.console.lessons.begin(CATEGORY, "anna")
    bench.console.teacher.start(lesson, "anna")
    assert wait_for_end(bench, lesson).state == "outliers"
    bench.console.teacher.start(lesson, "anna")
    bench.close()


def test_pages_know_the_categories_that_only_the_store_has(bench):
    bench.bank_objects.create("brick_two/log/00000001.json", b"a record")
    browser = bench.browser(Role.ENGINEER)
    for path in ("/search", "/review", "/category", "/teach"):
        assert "brick_two" in browser.get(path).text, path
    assert browser.get("/category/brick_three").status_code == 404
    bench.bank_objects.available = False
    page = browser.get("/search").text
    assert (CATEGORY in page, "brick_two" in page) == (True, False)
