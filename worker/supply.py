"""The jobs of a worker: from the queues of the categories that it serves, and of these one after the other."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from patchline.broker.base import Broker, Consumer, Delivery
from patchline.protocol import topology


class Supply:
    """Implements `patchline.broker.base.Consumer` over several queues.

    Backlog is taken only when no fresh delivery has arrived. Of several queues, that comes first from which nothing was
    taken for longest: full queues take turns, and a delivery of a quiet one waits for no full one.

    Args:
        broker: the connection.
        fresh: the queues to take from first.
        backlog: the queues to take from otherwise.
        prefetch: the unsettled deliveries of each fresh queue. A backlog queue has half of it, at least one.
    """

    def __init__(self, broker: Broker, fresh: Sequence[str], backlog: Sequence[str], prefetch: int) -> None:
        self._arrivals = threading.Semaphore(0)
        self._turns = itertools.count(1)
        self._served: dict[Consumer, int] = {}
        self._broker, self._prefetch, self._stopped = broker, prefetch, False
        self._joining: list[Consumer] = []
        self._fresh = self._consume(broker, fresh, prefetch)
        self._backlog = self._consume(broker, backlog, max(1, prefetch // 2))

    def _consume(self, broker: Broker, queues: Sequence[str], prefetch: int) -> list[Consumer]:
        consumers: list[Consumer] = [broker.consume(queue, prefetch, self._arrivals.release) for queue in queues]
        self._served.update(dict.fromkeys(consumers, 0))
        return consumers

    def add(self, fresh: Sequence[str], backlog: Sequence[str]) -> None:
        """Take from further queues, with the same prefetch. They count as subscribed until they are for the first time.

        Once the supply was stopped, this does nothing.
        """
        if self._stopped:
            return
        more = self._consume(self._broker, fresh, self._prefetch)
        late = self._consume(self._broker, backlog, max(1, self._prefetch // 2))
        self._joining = [*self._joining, *more, *late]
        self._fresh, self._backlog = [*self._fresh, *more], [*self._backlog, *late]
        self._arrivals.release(len(more + late))  # for what has arrived before a lane could look

    @property
    def subscribed(self) -> bool:
        """See `base.Consumer`."""
        self._joining = [consumer for consumer in self._joining if not consumer.subscribed]
        return all(consumer.subscribed for consumer in self._all() if consumer not in self._joining)

    def take(self, timeout_s: float) -> Delivery | None:
        """See `base.Consumer`."""
        self._arrivals.acquire(timeout=timeout_s)
        for consumer in itertools.chain(self._longest_unserved(self._fresh), self._longest_unserved(self._backlog)):
            delivery = consumer.take(0.0)
            if delivery is not None:
                self._served[consumer] = next(self._turns)
                return delivery
        return None

    def flush(self) -> None:
        """See `base.Consumer`."""
        self.begin_flush()()

    def begin_flush(self) -> Callable[[], None]:
        """See `base.Consumer`. All queues have the same few seconds, not one after the other."""
        return partial(_call_all, [consumer.begin_flush() for consumer in self._all()])

    def stop(self) -> None:
        """See `base.Consumer`."""
        self.begin_stop()()

    def begin_stop(self) -> Callable[[], None]:
        """See `base.Consumer`. All queues have the same few seconds, not one after the other."""
        self._stopped = True
        return partial(_call_all, [consumer.begin_stop() for consumer in self._all()])

    def cancel(self) -> None:
        """See `base.Consumer`."""
        self._stopped = True
        for consumer in self._all():
            consumer.cancel()

    def _all(self) -> list[Consumer]:
        return self._fresh + self._backlog

    def _longest_unserved(self, consumers: Sequence[Consumer]) -> Iterator[Consumer]:
        # A generator: the backlog is not sorted while there are fresh deliveries.
        yield from sorted(consumers, key=self._served.__getitem__)


def _call_all(waits: Iterable[Callable[[], None]]) -> None:
    for wait in waits:
        wait()


def of_jobs(broker: Broker, categories: Iterable[str], prefetch: int) -> Supply:
    """Return the jobs of some categories, and their backlog. See `Supply` for the prefetch."""
    names = list(categories)
    return Supply(broker, _queues(topology.JOBS, names), _queues(topology.BACKLOG, names), prefetch)


def of_suspects(broker: Broker, categories: Iterable[str]) -> Supply:
    """Return the suspects of some categories, one of each at a time."""
    return Supply(broker, _queues(topology.SUSPECTS, list(categories)), (), prefetch=1)


def add_jobs(supply: Supply, category: str) -> None:
    """Have a supply of `of_jobs` take those of one more category."""
    supply.add(_queues(topology.JOBS, [category]), _queues(topology.BACKLOG, [category]))


def add_suspects(supply: Supply, category: str) -> None:
    """Have a supply of `of_suspects` take those of one more category."""
    supply.add(_queues(topology.SUSPECTS, [category]), ())


def _queues(exchange: str, categories: Sequence[str]) -> list[str]:
    return [topology.category_queue(exchange, category) for category in categories]
