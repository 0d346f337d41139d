"""The lock of the lanes, with real threads."""

import threading

from patchline.worker import shared_exclusive_lock
from patchline.worker.shared_exclusive_lock import SharedExclusiveLock


def test_the_exclusive_holder_waits_for_shared_holders_and_excludes_them():
    lock, order = SharedExclusiveLock(2), []
    acquired, release = threading.Event(), threading.Event()

    def hold_shared():
        with lock.shared():
            acquired.set()
            release.wait(5)
            order.append("shared")

    def hold_exclusive():
        with lock.exclusive():
            order.append("exclusive")

    threads = [threading.Thread(target=hold_shared), threading.Thread(target=hold_exclusive)]
    threads[0].start()
    acquired.wait(5)
    threads[1].start()
    release.set()
    for thread in threads:
        thread.join(5)
    with lock.shared():
        order.append("shared")
    assert order == ["shared", "exclusive", "shared"]


def test_the_number_of_shared_holders_is_limited():
    lock, holders, finished, pair = SharedExclusiveLock(2), [], [], threading.Barrier(2)

    def hold_shared():
        for _ in range(50):
            with lock.shared():
                pair.wait(10)
                holders.append(lock._shared_holders)
            finished.append(1)

    threads = [threading.Thread(target=hold_shared) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (len(finished), max(holders)) == (300, 2)


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
        assert reported.wait(5)
        assert not acquired.is_set()
    waiting.join(5)
    assert acquired.is_set()


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
