"""The lock of the lanes, with real threads."""

import threading

import pytest

from patchline.worker import shared_exclusive_lock
from patchline.worker.shared_exclusive_lock import SharedExclusiveLock

_LIMIT_S = 30


class Arrivals:
    """Threads that come to a lock with one place, one after the other: each one waits before the next one comes."""

    def __init__(self, monkeypatch):
        monkeypatch.setattr(shared_exclusive_lock, "_WAIT_INTERVAL_S", 0.001)
        self.lock = SharedExclusiveLock(1, on_wait=self._on_wait)
        self.order = []  # in which they held it
        self.go = threading.Event()  # they hold it until then
        self._threads, self._waits, self._doomed = [], {}, {}

    def come(self, name, hold, doomed=None):
        """Wait for the lock in a thread. Once `doomed` is set, its waiting ends with an error."""

        def wait():
            try:
                with hold():
                    self.order.append(name)
                    self.go.wait(_LIMIT_S)
            except InterruptedError:
                self.order.append(f"{name} failed")

        thread = threading.Thread(target=wait)
        self._threads.append(thread)
        self._waits[thread], self._doomed[thread] = threading.Event(), doomed
        thread.start()
        assert self._waits[thread].wait(_LIMIT_S)
        return thread

    def leave(self):
        self.go.set()
        for thread in self._threads:
            thread.join(_LIMIT_S)

    def _on_wait(self):
        thread = threading.current_thread()
        self._waits[thread].set()
        if self._doomed[thread] is not None:
            self._doomed[thread].wait(_LIMIT_S)
            raise InterruptedError


@pytest.fixture
def arrivals(monkeypatch):
    arrivals = Arrivals(monkeypatch)
    yield arrivals
    arrivals.leave()


def test_threads_hold_the_lock_in_the_order_in_which_they_came(arrivals):
    with arrivals.lock.shared():
        for name in "abcdefgh":
            arrivals.come(name, arrivals.lock.shared)
    arrivals.leave()
    assert arrivals.order == list("abcdefgh")


def test_a_released_place_is_the_one_of_the_thread_that_waits_and_nobody_overtakes_it(arrivals):
    with arrivals.lock.shared():
        arrivals.come("waiting", arrivals.lock.shared)
    with arrivals.lock.spare() as free:  # at once: the other thread may not have woken up yet
        assert not free


def test_a_waiting_exclusive_holder_goes_before_threads_that_have_waited_for_longer(arrivals):
    with arrivals.lock.shared():
        arrivals.come("shared", arrivals.lock.shared)
        arrivals.come("exclusive", arrivals.lock.exclusive)
    arrivals.leave()
    assert arrivals.order == ["exclusive", "shared"]


def test_a_thread_whose_waiting_fails_leaves_no_gap_in_the_order(arrivals):
    doomed = threading.Event()
    with arrivals.lock.shared():
        first = arrivals.come("first", arrivals.lock.shared, doomed)
        arrivals.come("second", arrivals.lock.shared)
        doomed.set()
        first.join(_LIMIT_S)
    arrivals.leave()
    assert arrivals.order == ["first failed", "second"]


def test_a_place_that_was_given_to_a_thread_whose_waiting_fails_goes_to_the_next_one(arrivals):
    doomed = threading.Event()
    with arrivals.lock.shared():
        arrivals.come("first", arrivals.lock.shared, doomed)
        arrivals.come("second", arrivals.lock.shared)
    doomed.set()  # it has the place, and does not know it yet
    arrivals.leave()
    assert set(arrivals.order) == {"first failed", "second"}
    with arrivals.lock.spare() as free:
        assert free


def test_others_get_the_lock_after_the_waiting_of_an_exclusive_holder_has_failed(arrivals):
    doomed = threading.Event()
    doomed.set()
    with arrivals.lock.shared():
        arrivals.come("exclusive", arrivals.lock.exclusive, doomed)
    arrivals.leave()
    with arrivals.lock.spare() as free:
        assert free


def test_the_exclusive_holder_waits_for_shared_holders_and_excludes_them():
    lock, order = SharedExclusiveLock(2), []
    acquired, release = threading.Event(), threading.Event()

    def hold_shared():
        with lock.shared():
            acquired.set()
            release.wait(_LIMIT_S)
            order.append("shared")

    def hold_exclusive():
        with lock.exclusive():
            order.append("exclusive")

    threads = [threading.Thread(target=hold_shared), threading.Thread(target=hold_exclusive)]
    threads[0].start()
    acquired.wait(_LIMIT_S)
    threads[1].start()
    release.set()
    for thread in threads:
        thread.join(_LIMIT_S)
    with lock.shared():
        order.append("shared")
    assert order == ["shared", "exclusive", "shared"]


def test_the_number_of_shared_holders_is_limited():
    lock, holders = SharedExclusiveLock(2), []

    def hold_shared():
        for _ in range(50):
            with lock.shared():
                holders.append(lock._shared_holders)

    threads = [threading.Thread(target=hold_shared) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_LIMIT_S)
    with lock.shared(), lock.shared():
        holders.append(lock._shared_holders)
    assert (len(holders), max(holders)) == (301, 2)


def test_a_waiting_thread_reports_that_it_waits(monkeypatch):
    monkeypatch.setattr(shared_exclusive_lock, "_WAIT_INTERVAL_S", 0.0)
    reported, acquired = threading.Event(), threading.Event()
    lock = SharedExclusiveLock(1, on_wait=reported.set)

    def hold_shared():
        with lock.shared():
            acquired.set()

    waiting = threading.Thread(target=hold_shared)
    with lock.shared():
        waiting.start()
        assert reported.wait(_LIMIT_S)
        assert not acquired.is_set()
    waiting.join(_LIMIT_S)
    assert acquired.is_set()


def test_a_quiet_thread_tells_nobody_that_it_waits(monkeypatch):
    monkeypatch.setattr(shared_exclusive_lock, "_WAIT_INTERVAL_S", 0.0)
    told, loud = [], threading.Event()

    def on_wait():
        told.append(threading.current_thread())
        loud.set()

    def hold(**how):
        with lock.shared(**how):
            pass

    lock = SharedExclusiveLock(1, on_wait=on_wait)
    quiet = threading.Thread(target=hold, kwargs={"quiet": True})
    other = threading.Thread(target=hold)
    with lock.shared():
        quiet.start()
        other.start()
        assert loud.wait(_LIMIT_S)
    quiet.join(_LIMIT_S)
    other.join(_LIMIT_S)
    assert set(told) == {other}


def test_a_spare_place_is_taken_only_if_a_core_stays_free_and_nobody_waits_for_all():
    lock = SharedExclusiveLock(5)
    with lock.spare() as first, lock.spare() as second, lock.spare() as third:
        assert (first, second, third) == (True, True, False)
        with lock.shared():  # a job still finds a place
            pass
    with lock.shared(), lock.spare() as free:
        assert free
    with lock.shared(), lock.shared(), lock.spare() as free:
        assert not free
    with lock.exclusive(), lock.spare() as free:
        assert not free
    with SharedExclusiveLock(1).spare() as free:
        assert free
    assert lock._shared_holders == 0
