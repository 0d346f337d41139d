"""Which delivery a worker takes next, with the broker in memory."""

from types import SimpleNamespace

import pytest

from patchline.broker.base import Message
from patchline.broker.memory import MemoryBroker
from patchline.protocol import topology
from patchline.worker import supply


@pytest.fixture
def broker():
    broker = MemoryBroker()
    broker.declare(topology.plant(["a", "b", "c"], 100, 10**9, 100, 100))
    return broker


def send(broker, exchange, category, *names):
    for name in names:
        broker.publish(exchange, f"l.{category}", Message(b"x", name))


def take_all(source):
    names = []
    while (delivery := source.take(0.0)) is not None:
        names.append(delivery.message.message_id)
        delivery.ack()
    return names


def test_categories_take_turns(broker):
    jobs = supply.of_jobs(broker, ["a", "b"], prefetch=20)
    send(broker, topology.JOBS, "a", "a1", "a2", "a3")
    send(broker, topology.JOBS, "b", "b1")
    send(broker, topology.JOBS, "c", "of another worker")
    assert sorted(take_all(jobs)[:2]) == ["a1", "b1"]


def test_full_queues_have_the_same_share_also_beside_empty_ones(broker):
    jobs = supply.of_jobs(broker, ["a", "b", "c"], prefetch=20)
    for category in ("a", "b"):
        send(broker, topology.JOBS, category, *(f"{category}{number}" for number in range(6)))
    taken = take_all(jobs)
    assert [name[0] for name in taken] == ["a", "b"] * 6
    assert [name[1:] for name in taken[::2]] == [str(number) for number in range(6)]


def test_a_quiet_category_waits_for_no_full_one(broker):
    jobs = supply.of_jobs(broker, ["a", "b", "c"], prefetch=20)
    for category in ("a", "b"):
        send(broker, topology.JOBS, category, *(f"{category}{number}" for number in range(9)))
    for turn in range(5):
        assert {jobs.take(0.0).message.message_id[0] for _ in range(2)} == {"a", "b"}
        send(broker, topology.JOBS, "c", f"quiet {turn}")
        assert jobs.take(0.0).message.message_id == f"quiet {turn}"


def test_backlog_is_taken_when_nothing_fresh_waits(broker):
    jobs = supply.of_jobs(broker, ["a", "b"], prefetch=20)
    send(broker, topology.BACKLOG, "a", "old 1", "old 2")
    jobs.take(0.0).ack()
    send(broker, topology.JOBS, "b", "fresh")
    assert take_all(jobs) == ["fresh", "old 2"]


def test_the_unsettled_deliveries_of_each_category_are_bounded(broker):
    jobs = supply.of_jobs(broker, ["a", "b"], prefetch=4)
    for category in ("a", "b"):
        send(broker, topology.JOBS, category, *(f"{category}{number}" for number in range(9)))
        send(broker, topology.BACKLOG, category, *(f"{category}{number}" for number in range(9)))
    held = list(iter(lambda: jobs.take(0.0), None))
    assert len(held) == 2 * 4 + 2 * 2


def test_suspects_of_other_workers_stay_in_their_queues(broker):
    suspects = supply.of_suspects(broker, ["a"])
    send(broker, topology.SUSPECTS, "a", "a1")
    send(broker, topology.SUSPECTS, "b", "b1")
    assert take_all(suspects) == ["a1"]


def test_what_has_arrived_can_be_taken_after_the_end_of_consuming(broker):
    jobs = supply.of_jobs(broker, ["a", "b"], prefetch=1)
    send(broker, topology.JOBS, "a", "a1", "a2")
    send(broker, topology.JOBS, "b", "b1", "b2")
    jobs.stop()
    assert not jobs.subscribed
    held = list(iter(lambda: jobs.take(0.0), None))
    assert sorted(delivery.message.message_id for delivery in held) == ["a1", "b1"]


def test_a_delivery_names_its_exchange(broker):
    jobs = supply.of_jobs(broker, ["a"], prefetch=2)
    send(broker, topology.BACKLOG, "a", "old")
    delivery = jobs.take(0.0)
    assert delivery.exchange == topology.BACKLOG
    assert delivery.withdraw().exchange == topology.BACKLOG


def test_a_category_is_added_while_the_others_are_served_and_not_after_the_stop(broker):
    jobs = supply.of_jobs(broker, ["a"], prefetch=20)
    send(broker, topology.JOBS, "b", "b1")
    send(broker, topology.BACKLOG, "b", "late")
    assert take_all(jobs) == []
    supply.add_jobs(jobs, "b")
    send(broker, topology.JOBS, "a", "a1")
    taken = take_all(jobs)
    assert (sorted(taken[:2]), taken[2:]) == (["a1", "b1"], ["late"])
    jobs.stop()
    supply.add_jobs(jobs, "c")
    send(broker, topology.JOBS, "c", "c1")
    assert take_all(jobs) == []


class Consumer:
    """A consumer that is subscribed when the test says so, and notes what is begun and waited for."""

    subscribed = False

    def __init__(self, calls):
        self.calls = calls

    def begin_stop(self):
        self.calls.append("begun")
        return lambda: self.calls.append("waited")

    begin_flush = begin_stop


@pytest.mark.parametrize("end", ["stop", "flush"])
def test_no_queue_waits_for_the_answer_to_another_one(end):
    calls = []
    broker = SimpleNamespace(consume=lambda *_: Consumer(calls))
    getattr(supply.of_jobs(broker, ["a", "b"], prefetch=20), end)()
    assert calls == ["begun"] * 4 + ["waited"] * 4


def test_a_queue_that_was_added_counts_once_it_was_subscribed():
    made = []
    broker = SimpleNamespace(consume=lambda *_: made.append(Consumer([])) or made[-1])
    jobs = supply.of_jobs(broker, ["a"], prefetch=20)
    assert not jobs.subscribed
    for consumer in made:
        consumer.subscribed = True
    supply.add_jobs(jobs, "b")
    assert jobs.subscribed
    made[-1].subscribed = made[-2].subscribed = True
    assert jobs.subscribed
    made[-1].subscribed = False
    assert not jobs.subscribed
