"""The page of a part: its closer look by replay, outlines, times, and what is not known. With a real bank and model."""

import re
import threading
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from patchline import config
from patchline.console.looks import Look, Looks
from patchline.console.roles import Role
from patchline.inspection import picture
from patchline.operations.look_result import Answer, CloserLook, Lack
from patchline.protocol.errors import SetupError
from tests.archive_contract import NOW, record
from tests.console_bench import PNG, Bench
from tests.ledger_contract import act, announcement, entry, judgement, outcome
from tests.unit.test_replay import Scene

BENCH = Bench

HX = {"hx-request": "true"}


@pytest.fixture(scope="module")
def passed(plant, texture_folder):
    """An archive with a part that has passed, and what judges it again."""
    image = min((texture_folder / "test" / "good").iterdir())
    scene = Scene(config.load(plant / "config.yaml"), image.read_bytes())
    scene.keep()
    assert scene.verdict.decision == "pass"
    return scene


@pytest.fixture
def part(bench, passed):
    """A console on that archive."""
    bench.archive.save([passed.archive.get("job-1")], [])
    bench.keep_picture("job-1", body=passed.image)
    bench.look = passed.look
    return bench


def told(page):
    return " ".join(page.split())


def test_a_part_that_passed_gets_its_heat_map_on_request(part, passed):
    browser = part.browser(Role.SEE)
    page = browser.get("/part/job-1").text
    assert "Show its heat map, and compare with good parts" in page
    assert "data-over" not in page
    answer = browser.post("/look/job-1", headers=HX)
    assert 'hx-trigger="every 1s"' in answer.text
    assert "It is judged again." in answer.text
    assert browser.get("/look/job-1?ahead=0", **HX).status_code == 204
    assert browser.get("/look/job-1/heat_map").status_code == 404
    assert "Show its heat map" not in browser.get("/part/job-1").text
    assert part.console.looks.step()
    assert 'hx-select="#pictures"' in browser.get("/look/job-1?ahead=0", **HX).text
    page = told(browser.get("/part/job-1").text)
    for text in ('src="/look/job-1/heat_map"', "data-over", 'src="/look/job-1/part"', 'src="/look/job-1/good"'):
        assert text in page, text
    look = passed.look()
    assert "Judged again, it has the same score." in page
    assert f"{look.comparison.times:.2f} times the threshold" in page
    assert f"The nearest good patch, of {look.comparison.name}" in page
    assert browser.get("/look/job-1/heat_map").content == look.heat_map
    assert browser.get("/look/job-1/part").content == look.comparison.part.shown
    assert browser.get("/look/job-1/good").content == look.comparison.good.shown
    assert browser.get("/look/job-1/image").status_code == 404


def test_without_scripts_the_page_of_the_part_says_how_far_it_is(part):
    browser = part.browser(Role.SEE)
    answer = browser.post("/look/job-1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/part/job-1#look")
    assert "It is judged again." in browser.get("/part/job-1").text
    assert browser.get("/look/job-1").headers["location"] == "/part/job-1#look"
    part.console.looks.step()
    assert "Compared with good parts" in browser.get("/part/job-1").text


def test_a_look_is_forgotten_after_a_while(part):
    browser = part.browser(Role.SEE)
    browser.post("/look/job-1")
    part.console.looks.step()
    part.pass_time(901)
    assert browser.get("/look/job-1/heat_map").status_code == 404
    assert "Show its heat map" in browser.get("/part/job-1").text


@pytest.mark.parametrize(
    ("kept", "changes", "text"),
    [
        (False, {}, "Its picture is missing: the archive did not keep it"),
        (True, {"decision": "expired", "score": None}, "It has no score: it was not judged, or too late."),
    ],
)
def test_what_cannot_be_judged_again_is_said_at_once_and_nothing_is_started(bench, kept, changes, text):
    bench.archive.save([record(**changes)], [])
    if kept:
        bench.keep_picture("job-1")
    browser = bench.browser(Role.SEE)
    page = browser.get("/part/job-1").text
    assert text in page
    assert 'action="/look/job-1"' not in page
    assert browser.post("/look/job-1").status_code == 404
    assert not bench.console.looks.step()


def test_a_part_without_a_verdict_cannot_be_judged_again(bench):
    bench.archive.save_ledger([entry(announcement())], [])
    assert "There is no verdict on it that can be read." in bench.browser(Role.SEE).get("/part/job-1").text


@pytest.mark.parametrize(
    ("lack", "text"),
    [
        (Lack.BANK, "The memory bank that judged it is missing."),
        (Lack.MODEL, "The model that judged it is missing"),
        (Lack.IMAGE, "Its picture is missing"),
    ],
)
def test_what_a_replay_lacks_is_told_and_it_can_be_tried_again(bench, lack, text):
    bench.archive.save([record()], [])
    bench.keep_picture("job-1")
    bench.look = lambda _: CloserLook(answer=Answer.IMPOSSIBLE, missing="version 01 is not in banks", lack=lack)
    browser = bench.browser(Role.SEE)
    browser.post("/look/job-1")
    bench.console.looks.step()
    page = browser.get("/part/job-1").text
    assert text in page
    assert "version 01 is not in banks" in page
    assert "Try again" in page
    assert browser.get("/look/job-1/heat_map").status_code == 404


def test_a_child_that_fails_is_told_and_the_next_try_starts_anew(bench):
    bench.archive.save([record()], [])
    bench.keep_picture("job-1")
    browser = bench.browser(Role.SEE)
    browser.post("/look/job-1")
    bench.console.looks.step()
    assert "It could not be judged again: job-1: nothing judges here" in browser.get("/part/job-1").text
    assert "It is judged again." in browser.post("/look/job-1", headers=HX).text
    assert bench.console.looks.step()


def test_another_score_is_told_with_what_is_not_as_it_was(bench):
    bench.archive.save([record()], [])
    bench.keep_picture("job-1")
    bench.look = lambda _: CloserLook(
        answer=Answer.OTHER, score=1200.5, again=1200.25, other=("other processor: a then, b now",), heat_map=PNG
    )
    browser = bench.browser(Role.SEE)
    browser.post("/look/job-1")
    bench.console.looks.step()
    page = told(browser.get("/part/job-1").text)
    assert "another score: 1200.5 then, 1200.25 now. other processor: a then, b now." in page


def test_few_looks_wait_and_the_others_are_refused(bench):
    jobs = [f"job-{number}" for number in range(6)]
    bench.archive.save([record(job) for job in jobs], [])
    for job in jobs:
        bench.keep_picture(job)
    browser = bench.browser(Role.SEE)
    answers = [browser.post(f"/look/{job}", headers=HX) for job in jobs]
    assert [answer.status_code for answer in answers] == [200] * 5 + [503]
    assert "Parts before it: 4" in answers[4].text
    assert "Other parts wait for it already." in answers[5].text
    assert browser.post("/look/job-3", headers=HX).status_code == 200
    bench.console.looks.step()
    assert bench.console.looks.of("job-4") == Look(ahead=3)
    assert browser.post("/look/job-5", headers=HX).status_code == 200


def test_looks_are_computed_one_at_a_time_and_the_oldest_are_dropped():
    computed = []

    def compute(job_id):
        computed.append(job_id)
        return CloserLook(answer=Answer.SAME)

    looks, stop = Looks(compute, clock=lambda: 0.0), threading.Event()
    for number in range(40):
        assert looks.ask(f"job-{number}")
        assert looks.ask(f"job-{number}")
        assert looks.step()
    assert computed == [f"job-{number}" for number in range(40)]
    assert looks.of("job-7") is None
    assert looks.of("job-8").found is not None
    assert looks.ask("job-8")
    assert not looks.step()
    stop.set()
    looks.run(stop)


def test_a_look_that_fails_ends_no_thread():
    def compute(job_id):
        raise SetupError("no time")

    looks = Looks(compute)
    looks.ask("job-1")
    assert looks.step()
    assert looks.of("job-1") == Look(failure="no time")


REGIONS = (
    {"x": 10, "y": 5, "width": 20, "height": 8, "score": 2.5},
    {"x": 0, "y": 30, "width": 3, "height": 2, "score": 1},
)


def test_regions_are_listed_and_outlined_in_the_pixels_of_the_picture(bench):
    bench.archive.save([record(regions=REGIONS)], [])
    bench.keep_picture("job-1", body=picture.encode_png(np.zeros((32, 48, 3), np.uint8)))
    browser = bench.browser(Role.SEE)
    page = told(browser.get("/part/job-1").text)
    assert "x 10, y 5, 20 × 8 pixels; 2.50 times the threshold" in page
    assert 'src="/outlines/job-1"' in page
    assert "data-outlines" in page
    answer = browser.get("/outlines/job-1")
    assert answer.headers["content-type"] == "image/svg+xml"
    drawn = ElementTree.fromstring(answer.content)
    assert (drawn.get("width"), drawn.get("height"), drawn.get("viewBox")) == ("48", "32", "0 0 48 32")
    boxes = {
        tuple(one.get(name) for name in ("x", "y", "width", "height")) for one in drawn if one.tag.endswith("rect")
    }
    assert boxes == {("10", "5", "20", "8"), ("0", "30", "3", "2")}
    assert [one.text for one in drawn if one.tag.endswith("text")] == ["1", "2"]


def test_without_regions_or_a_picture_that_can_be_read_there_are_no_outlines(bench):
    bench.archive.save([record(), record("job-2", regions=REGIONS), record("job-3", regions=REGIONS)], [])
    bench.keep_picture("job-1")
    bench.keep_picture("job-2", body=b"nothing")
    browser = bench.browser(Role.SEE)
    assert "/outlines/" not in browser.get("/part/job-1").text
    for job in ("job-1", "job-2", "job-3", "job-4"):
        assert browser.get(f"/outlines/{job}").status_code == 404


def test_a_picture_of_more_bits_is_shown_in_the_8_bits_that_were_judged(bench):
    pixels = np.full((32, 48), 2048, np.uint16)
    bench.keep_picture("job-1", body=bytes(cv2.imencode(".png", pixels)[1]), category="deep")
    categories = {"deep": next(iter(bench.console.settings.categories.values())).model_copy(update={"bit_depth": 12})}
    object.__setattr__(bench.console, "settings", bench.console.settings.model_copy(update={"categories": categories}))
    answer = bench.browser(Role.SEE).get("/picture/job-1/image")
    assert cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED).max() == 128


def test_times_of_clocks_that_differ_have_no_bar(bench):
    entries = [announcement(announced_at=NOW - 10), act(acted_at=NOW + 20), outcome()]
    bench.archive.save([record(deadline=NOW - 1)], [])
    bench.archive.save_ledger([entry(one) for one in entries], [])
    page = told(bench.browser(Role.SEE).get("/part/job-1").text)
    assert "The verdict came 1 ms after its deadline." in page
    rows = re.findall(r'<th scope="row">([^<]+)</th><td class="number">([^<]+)</td> <td>(<svg)?', page)
    assert rows == [
        ("until it was announced", "40 ms", "<svg"),
        ("in the queue", "-10 ms", ""),
        ("at the worker, until the verdict", "20 ms", "<svg"),
        ("until the gate had acted", "20 ms", "<svg"),
        ("until the sensor had seen it", "880 ms", "<svg"),
    ]


def test_stages_and_judgements_of_other_programs_are_shown_as_they_are(bench):
    bench.archive.save([record(durations_ms={"100 %(x)s": 2})], [])
    said = [judgement(said="good", note="100 % sure"), judgement(said="withdrawn", judged_at=NOW + 2_000, by="bert")]
    bench.archive.save_ledger([entry(one) for one in said], [])
    page = told(bench.browser(Role.SEE).get("/part/job-1").text)
    assert "Worker: 100 %(x)s" in page
    assert page.index("<td>bert</td> <td>taken back</td>") < page.index("<td>anna</td> <td>good</td> <td>100 % sure")


def test_an_act_that_came_too_late_says_so(bench):
    bench.archive.save_ledger([entry(announcement()), entry(act(stale=True))], [])
    assert "gate g rejected it too late, it had probably left: fail" in bench.browser(Role.SEE).get("/part/job-1").text


@pytest.mark.parametrize(("url", "link"), [("", ""), ("http://jaeger:16686/trace/{trace}?x=1", "a")])
def test_a_trace_is_named_and_linked_if_the_plant_has_a_viewer(tmp_path, url, link):
    bench = Bench(tmp_path, trace_url=url)
    bench.archive.save([record(traceparent=f"00-{'ab' * 16}-{'cd' * 8}-01"), record("job-2", traceparent="x")], [])
    browser = bench.browser(Role.SEE)
    page = browser.get("/part/job-1").text
    assert "ab" * 16 in page
    assert (f'href="http://jaeger:16686/trace/{"ab" * 16}?x=1"' in page) == bool(link)
    assert "Trace" not in browser.get("/part/job-2").text
    bench.close()


def test_a_verdict_of_an_earlier_build_does_not_say_its_version(bench):
    bench.archive.save([record(bank_version=None)], [])
    assert "version not known, index brick@" in bench.browser(Role.SEE).get("/part/job-1").text


def test_regions_and_comparisons_of_a_trial_are_told_in_the_only_threshold_that_it_has(part, passed, monkeypatch):
    limits = {"review": 500.0, "fail": 1_000.0, "trial": True}
    part.archive.save([record("job-2", thresholds=limits, decision="review", regions=REGIONS)], [])
    browser = part.browser(Role.SEE)
    page = told(browser.get("/part/part-of-job-2").text)
    assert "x 10, y 5, 20 × 8 pixels; 5.00 times the threshold of doubt" in page
    look = passed.look()
    trial = look.comparison.model_copy(update={"trial": True})
    monkeypatch.setattr(part, "look", lambda _: look.model_copy(update={"comparison": trial}))
    browser.post("/look/job-1", headers=HX)
    assert part.console.looks.step()
    assert f"{trial.times:.2f} times the threshold of doubt" in told(browser.get("/part/job-1").text)
