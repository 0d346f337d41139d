"""The window of a publisher and its replay, with a broker whose confirmations a test decides."""

import threading
from concurrent.futures import Future
from types import SimpleNamespace

import pytest

from patchline.broker.base import NotConfirmed, Refused, TooLarge
from patchline.protocol import messages, topology
from patchline.publisher.client import Client, NotAcceptedError
from patchline.publisher.publisher import Publisher
from patchline.publisher.replay import Replay
from patchline.publisher.source import Capture
from patchline.publisher.spool import Spool
from patchline.publisher.window import Limits

NOW = 1_800_000_000_000
LIMITS = Limits(window=4, window_bytes=1000, confirm_timeout_s=5.0, max_image_bytes=900)
LOST = NotConfirmed("the channel closed")


class DecidedBroker:
    """Records what is published. Every confirmation is running until the test decides it."""

    def __init__(self):
        self.connected = True
        self.published = []  # part id and confirmation of each image
        self.announced = []  # part ids
        self.announces = True  # an announcement without an image is confirmed at once

    def publish_nowait(self, outgoing):
        confirmation = Future()
        if self.connected:
            confirmation.set_running_or_notify_cancel()
        for item in outgoing:
            part_id = item.message.headers["part_id"]
            if item.exchange == topology.PARTS:
                self.announced.append(part_id)
            else:
                self.published.append((part_id, confirmation))
        if len(outgoing) == 1 and outgoing[0].exchange == topology.PARTS:
            if self.announces:
                confirmation.set_result(None)
            else:
                confirmation.set_exception(NotConfirmed("RabbitMQ is away"))
        return confirmation

    @property
    def parts(self):
        return [part_id for part_id, _ in self.published]

    def confirm(self, number):
        self.published[number][1].set_result(None)

    def fail(self, number, error):
        self.published[number][1].set_exception(error)


@pytest.fixture
def line(tmp_path):
    """A publisher, its broker, its clocks and the states that it reported."""
    clocks, states, stop = SimpleNamespace(now_ms=NOW, seconds=100.0), [], threading.Event()
    spool = Spool(tmp_path / "l.c.sqlite", max_bytes=100_000, max_age_s=60.0)
    broker = DecidedBroker()

    def on_state(job, state, reason):
        states.append((job.part_id, state))

    common = {"clock_ms": lambda: clocks.now_ms, "clock": lambda: clocks.seconds}
    replay = Replay(broker, spool, on_state, stop, late_per_s=10.0, **common)
    publisher = Publisher(broker, "l", "c", spool, replay, on_state, stop, limits=LIMITS, **common)
    yield SimpleNamespace(
        publisher=publisher, replay=replay, broker=broker, spool=spool, clocks=clocks, states=states, stop=stop
    )
    spool.close()


def capture(part_id, size=10, on_accepted=lambda: None):
    return Capture(part_id, "image/png", NOW, part_id.encode() * size, on_accepted=on_accepted)


def accept(line, *part_ids, deadline=NOW + 10_000):
    for part_id in part_ids:
        assert line.publisher.accept(capture(part_id), deadline) is not None


def settle(line, count=1):
    for _ in range(count):
        assert line.publisher.settle(0)


def spooled_job(part_id, deadline=NOW + 10_000):
    return messages.Job(
        job_id=f"j-{part_id}",
        line="l",
        category="c",
        part_id=part_id,
        captured_at=NOW,
        deadline=deadline,
        content_type="image/png",
    )


def test_several_images_are_on_their_way_and_their_states_are_told_in_order(line):
    accept(line, "a", "b", "c")
    assert (line.broker.announced, line.broker.parts) == (["a", "b", "c"], ["a", "b", "c"])
    assert line.states == [], "an image that is only in memory has no state"
    for number in (2, 1, 0):
        line.broker.confirm(number)
    settle(line, 3)
    assert line.states == [("a", "confirmed"), ("b", "confirmed"), ("c", "confirmed")]


def test_a_full_window_makes_the_source_wait(line):
    accept(line, "a", "b", "c", "d")
    line.stop.wait = lambda _: None
    threading.Timer(0.05, line.stop.set).start()
    assert line.publisher.accept(capture("e"), None) is None
    assert line.broker.parts == ["a", "b", "c", "d"]


def test_large_images_fill_the_window_by_their_bytes(line):
    assert line.publisher.accept(capture("a", size=600), None)
    threading.Timer(0.05, line.stop.set).start()
    assert line.publisher.accept(capture("b", size=600), None) is None
    assert line.broker.parts == ["a"]


def test_a_source_hears_of_its_image_when_it_is_safe_and_not_before(line):
    taken = []
    for part_id in "ab":
        line.publisher.accept(capture(part_id, on_accepted=lambda part_id=part_id: taken.append(part_id)), None)
    assert taken == []
    line.broker.confirm(0)
    settle(line)
    assert taken == ["a"]
    line.clocks.seconds += 5.0
    settle(line)
    assert (taken, line.spool.depth()) == (["a", "b"], 1)


def test_an_image_is_not_sent_again_while_its_first_copy_may_still_arrive(line):
    accept(line, "a", "b")
    line.clocks.seconds += 5.0  # a long alarm
    settle(line, 2)
    assert line.states == [("a", "spooled"), ("b", "spooled")]
    for _ in range(30):
        assert line.replay.step(0)
    assert line.broker.parts == ["a", "b"]
    line.broker.confirm(0)
    line.broker.confirm(1)
    line.replay.step(0)
    assert line.states[2:] == [("a", "confirmed"), ("b", "confirmed")]
    assert (line.broker.parts, line.spool.depth()) == (["a", "b"], 0)


def test_an_image_is_sent_again_once_its_first_copy_is_lost(line):
    accept(line, "a", "b")
    line.clocks.seconds += 5.0
    settle(line, 2)
    line.replay.step(0)
    line.broker.fail(0, LOST)
    line.broker.confirm(1)
    assert not line.replay.step(0)
    line.replay.step(0)
    assert line.broker.parts == ["a", "b", "a"]
    line.broker.confirm(2)
    line.replay.step(0)
    assert line.states[2:] == [("a", "confirmed"), ("b", "confirmed")]


def test_what_was_not_sent_is_taken_back_when_it_goes_to_the_spool(line):
    line.broker.connected = False
    accept(line, "a", "b")
    line.clocks.seconds += 5.0
    settle(line, 2)
    assert all(confirmation.cancelled() for _, confirmation in line.broker.published)
    assert not line.replay.step(0), "nothing is sent without a connection"
    line.broker.connected = True
    line.replay.step(0)
    assert line.broker.parts == ["a", "b", "a", "b"]


def test_images_that_were_lost_with_their_channel_are_sent_again_in_order(line):
    accept(line, "a", "b", "c")
    line.broker.confirm(0)
    for number in (1, 2):
        line.broker.fail(number, LOST)
    accept(line, "d")
    assert line.broker.parts == ["a", "b", "c"], "a later image does not overtake the lost ones"
    settle(line)
    threading.Timer(0.05, lambda: [line.broker.confirm(number) for number in (3, 4, 5)]).start()
    settle(line, 3)
    assert line.broker.parts == ["a", "b", "c", "b", "c", "d"]
    assert [state for _, state in line.states] == ["confirmed"] * 4
    assert line.spool.depth() == 0


def test_only_the_image_that_is_too_large_is_refused_and_its_part_is_announced(line):
    accept(line, "a", "b", "c")
    line.broker.announced.clear()
    line.broker.confirm(0)
    line.broker.fail(1, TooLarge("the message has 9 bytes"))
    line.broker.fail(2, LOST)
    settle(line, 2)
    assert line.states == [("a", "confirmed"), ("b", "refused")]
    assert line.broker.announced == ["b"]
    threading.Timer(0.05, lambda: line.broker.confirm(3)).start()
    settle(line)
    assert (line.states[2], line.broker.parts) == (("c", "confirmed"), ["a", "b", "c", "c"])


def test_an_image_that_no_worker_would_take_is_refused_without_sending_it(line):
    reasons, taken = [], []
    line.publisher.on_state = lambda job, state, reason: reasons.append((state, reason))
    assert line.publisher.accept(capture("a", size=901, on_accepted=lambda: taken.append(1)), NOW + 10_000)
    settle(line)
    ((state, reason),) = reasons
    assert state == "refused"
    assert reason.startswith("the image has 901 bytes, and images.max_bytes is 900; send a smaller image, or raise it")
    assert (line.broker.announced, line.broker.parts, taken, line.spool.depth()) == (["a"], [], [1], 0)


def test_the_part_of_a_refused_image_is_announced_later_if_rabbitmq_has_not_confirmed_it(line):
    line.broker.announces = False
    line.publisher.accept(capture("a", size=901), NOW + 10_000)
    settle(line)
    assert line.states == [("a", "spooled")]
    entry = line.spool.oldest()
    assert (entry.job.part_id, entry.image) == ("a", b"")


def test_a_spooled_image_that_is_too_large_is_refused_and_the_ones_behind_it_are_sent(line):
    for part_id in "abc":
        line.spool.put(spooled_job(part_id), b"pixels", NOW)
    line.replay.step(0)
    line.broker.announced.clear()
    line.broker.confirm(0)
    line.broker.fail(1, TooLarge("the message has 9 bytes"))
    line.broker.fail(2, LOST)
    line.replay.step(0)
    line.replay.step(0)
    assert line.broker.announced == ["b", "c"]
    line.broker.confirm(3)
    line.replay.step(0)
    assert line.states == [("a", "confirmed"), ("b", "refused"), ("c", "confirmed")]
    assert line.spool.depth() == 0


def test_an_image_behind_a_spool_that_is_emptied_is_announced_at_once_and_sent_in_order(line):
    line.spool.put(spooled_job("old"), b"pixels", NOW)
    accept(line, "fresh")
    settle(line)
    assert line.states == [("fresh", "spooled")]
    assert (line.broker.announced, line.broker.parts) == (["fresh"], [])
    line.replay.step(0)
    assert line.broker.parts == ["old", "fresh"]


def put_late(line, count):
    for number in range(count):
        line.spool.put(spooled_job(f"late-{number}", deadline=NOW), b"pixels", NOW)


def test_a_fresh_image_overtakes_spooled_images_whose_time_is_over_once_the_broker_takes_them(line):
    put_late(line, 9)
    accept(line, "too-soon")
    settle(line)
    assert line.states == [("too-soon", "spooled")]
    line.replay.step(0)
    line.broker.confirm(0)
    line.replay.step(0)
    accept(line, "fresh")
    line.broker.confirm(line.broker.parts.index("fresh"))
    settle(line)
    assert line.states[1:] == [("late-0", "confirmed"), ("fresh", "confirmed")]
    assert line.spool.depth() == 9


def test_fresh_images_wait_behind_those_that_are_in_time(line):
    put_late(line, 1)
    line.spool.put(spooled_job("in-time"), b"pixels", NOW)
    line.replay.step(0)
    line.broker.confirm(0)
    line.broker.confirm(1)
    line.spool.put(spooled_job("in-time-too"), b"pixels", NOW)
    line.replay.step(0)
    accept(line, "fresh")
    settle(line)
    assert line.states[-1] == ("fresh", "spooled")


def test_after_a_lost_image_the_next_ones_wait_in_the_spool_again(line):
    put_late(line, 9)
    line.replay.step(0)
    line.broker.confirm(0)
    line.replay.step(0)
    accept(line, "lost")
    line.broker.fail(line.broker.parts.index("lost"), Refused("full"))
    settle(line)
    accept(line, "next")
    settle(line)
    assert line.states[1:] == [("lost", "spooled"), ("next", "spooled")]
    assert "next" not in line.broker.parts


def test_a_part_whose_time_is_over_is_not_announced(line):
    line.spool.put(spooled_job("late", deadline=NOW), b"pixels", NOW)
    line.spool.put(spooled_job("in-time"), b"pixels", NOW)
    line.replay.step(0)
    assert (line.broker.parts, line.broker.announced) == (["late", "in-time"], ["in-time"])


def test_images_whose_time_is_over_are_sent_at_a_limited_rate(line):
    put_late(line, 40)

    def replay_for(seconds):
        before = len(line.broker.published)
        for _ in range(int(seconds * 20)):
            line.clocks.seconds += 0.05
            line.replay._fill()
            for _, confirmation in line.broker.published:
                if not confirmation.done():
                    confirmation.set_result(None)
            while line.replay._flights:
                line.replay._leave(line.replay._flights[0])
        return len(line.broker.published) - before

    replay_for(1.0)
    assert 9 <= replay_for(1.0) <= 11, "10 a second"


def test_images_that_are_in_time_are_sent_at_once(line):
    for number in range(40):
        line.spool.put(spooled_job(f"part-{number}"), b"pixels", NOW)
    while line.replay.step(0):
        for _, confirmation in line.broker.published:
            if not confirmation.done():
                confirmation.set_result(None)
    assert len(line.broker.parts) == 40


def test_the_replay_has_few_images_on_their_way(line):
    for number in range(40):
        line.spool.put(spooled_job(f"part-{number}"), b"pixels", NOW)
    for _ in range(10):
        line.replay.step(0)
    assert len(line.broker.parts) == 4


def test_a_full_queue_sends_the_image_to_the_spool_at_once(line):
    accept(line, "a")
    line.broker.fail(0, Refused("full"))
    settle(line)
    assert (line.states, line.broker.parts) == ([("a", "spooled")], ["a"])


def test_a_closed_client_says_that_it_did_not_accept_an_image(line):
    line.stop.set()
    client = Client(line.publisher, 1000, line.stop, SimpleNamespace(close=lambda: None))
    with pytest.raises(NotAcceptedError, match="part a is not accepted: the client is closed"):
        client.send(b"pixels", "a")


def test_a_client_returns_a_receipt_for_each_image(line):
    client = Client(line.publisher, 1000, line.stop, SimpleNamespace(close=lambda: None))
    sent = client.send(b"\x89PNG\r\n\x1a\n", "a", captured_at=NOW)
    refused = client.send(b"x" * 901, "b", captured_at=NOW)
    assert not sent.done()
    line.broker.confirm(0)
    settle(line, 2)
    assert (sent.result(0).state, sent.result(0).reason) == ("confirmed", None)
    assert refused.result(0).state == "refused"
    assert "images.max_bytes is 900" in refused.result(0).reason


def test_a_client_refuses_a_part_id_that_is_not_valid(line):
    client = Client(line.publisher, 1000, line.stop, SimpleNamespace(close=lambda: None))
    with pytest.raises(ValueError, match="part_id"):
        client.send(b"pixels", "two words")
