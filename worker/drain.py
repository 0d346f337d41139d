"""The orderly end of a worker: finish what has arrived, and give the rest back."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial

from patchline.broker.base import Broker
from patchline.worker.give_back import give_back
from patchline.worker.lane import Lane


def drain(lanes: Sequence[Lane], threads: Sequence[threading.Thread], broker: Broker, drain_s: float) -> int:
    """Let the lanes finish what has arrived, for at most `drain_s` seconds. Give the rest back.

    Returns:
        The number of jobs that were given back. Lanes that still work on one have lost it (`Delivery.withdraw`).
    """
    deadline = time.monotonic() + drain_s
    one_per_queue = {id(lane.jobs): lane for lane in lanes}.values()
    for wait in [lane.jobs.begin_stop() for lane in one_per_queue]:
        wait()
    for lane in lanes:
        lane.stop.set()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return sum(_give_rest_back(lane, broker) for lane in one_per_queue)


def _give_rest_back(lane: Lane, broker: Broker) -> int:
    withdrawn = [delivery.withdraw() for delivery in list(lane.in_hand)]
    rest = [delivery for delivery in withdrawn if delivery is not None]
    rest += iter(partial(lane.jobs.take, 0.0), None)
    give_back(broker, rest)
    return len(rest)
