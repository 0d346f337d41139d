"""Several hosts on one chip."""

import threading

import numpy as np
import pytest

from patchline.devices.host_pool import HostPool
from patchline.protocol.errors import Reason, Retry


class Host:
    """Returns the first pixel of an image, once `meeting` lets it."""

    manifest, grid, side, precision = "manifest", (1, 1), 8, "f16"

    def __init__(self, meeting):
        self._meeting, self._lock = meeting, threading.Lock()
        self.fails = self.closed = False
        self.count = 0

    def extract(self, images):
        assert not self._lock.locked(), "two images at the same time"
        with self._lock:
            self._meeting.wait(20)
            if self.fails:
                raise Retry(Reason.DEVICE_FAILED, "failed")
            self.count += len(images)
            return images[:, :1, :1, 0].astype(np.float32)

    def close(self):
        self.closed = True


def pool_of(count, parties):
    hosts, meeting = [], threading.Barrier(parties)

    def start():
        hosts.append(Host(meeting))
        return hosts[-1]

    return HostPool(start, count), hosts


def image(value):
    return np.full((1, 8, 8, 3), value, np.uint8)


def in_threads(function, count):
    results = [None] * count

    def run(number):
        try:
            results[number] = function(number)
        except Retry as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_hosts_work_at_the_same_time_on_an_image_each():
    pool, hosts = pool_of(2, parties=2)  # an image is done only if both hosts have one
    results = in_threads(lambda number: pool.extract(image(number)).item(), 20)
    assert results == list(range(20))
    assert sum(host.count for host in hosts) == 20
    assert all(host.count for host in hosts)


def test_a_host_that_fails_fails_for_its_image_only_and_is_used_again():
    pool, (first, second) = pool_of(2, parties=2)
    first.fails = True
    results = in_threads(lambda number: pool.extract(image(number)).item(), 2)
    assert sorted(type(result).__name__ for result in results) == ["Retry", "float"]
    first.fails = False
    in_threads(lambda number: pool.extract(image(number)), 2)
    assert (first.count, second.count) == (1, 2)


def test_several_images_are_stacked_in_their_order():
    pool, _ = pool_of(2, parties=1)
    images = np.concatenate([image(value) for value in (3, 1, 2)])
    assert pool.extract(images).ravel().tolist() == [3, 1, 2]
    assert (pool.manifest, pool.grid, pool.side, pool.precision) == ("manifest", (1, 1), 8, "f16")


def test_all_hosts_are_closed_at_the_end_and_if_one_cannot_be_started():
    pool, hosts = pool_of(3, parties=1)
    pool.close()
    assert all(host.closed for host in hosts)
    started = []

    def start():
        if len(started) == 2:
            raise RuntimeError("full")
        started.append(Host(threading.Barrier(1)))
        return started[-1]

    with pytest.raises(RuntimeError, match="full"):
        HostPool(start, 3)
    assert all(host.closed for host in started)
