"""One publisher with a spool for each category: a full queue of one category delays no image of another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager

import structlog

from patchline.protocol.messages import Job
from patchline.publisher.job_state import OnSettled
from patchline.publisher.publisher import Publisher
from patchline.publisher.source import Capture

_log = structlog.get_logger(__name__)
_TICK_S = 0.1


class Pipelines:
    """The publishers of one line. A context manager; at the end every image has a state or was not accepted.

    Args:
        category: that of captures without one; None if every capture has one.
        start: starts the publisher of a category.
    """

    def __init__(self, category: str | None, start: Callable[[str | None], AbstractContextManager[Publisher]]) -> None:
        self._category = category
        self._start = start
        self._stack = ExitStack()
        self._publishers: dict[str | None, Publisher] = {}

    def __enter__(self) -> Pipelines:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def open(self, category: str | None) -> Publisher:
        """Return the publisher of a category. Start it at the first call.

        None is the spool of an earlier build for several categories: it is emptied, and takes no captures.

        Raises:
            SetupError: the spool cannot be used.
        """
        if category not in self._publishers:
            self._publishers[category] = self._stack.enter_context(self._start(category))
        return self._publishers[category]

    def accept(self, capture: Capture, deadline: int | None, on_settled: OnSettled = lambda *_: None) -> Job | None:
        """See `Publisher.accept`. Images of different categories have no order."""
        return self.open(capture.category or self._category).accept(capture, deadline, on_settled)

    def announce(self, capture: Capture, deadline: int | None) -> Capture:
        """See `Publisher.announce`."""
        return self.open(capture.category or self._category).announce(capture, deadline)

    def flush(self) -> None:
        """Wait until every accepted image has a state, or the stop event is set."""
        for publisher in self._publishers.values():
            publisher.flush()

    @property
    def in_window(self) -> int:
        """Number of images that are accepted and have no state yet."""
        return sum(publisher.in_window for publisher in self._publishers.copy().values())

    def depth(self) -> int:
        """Return the number of images in the spools."""
        return sum(publisher.spool.depth() for publisher in self._publishers.copy().values())

    def oldest_age_s(self) -> float:
        """Return the age of the oldest image in the spools in seconds; 0 if they are empty."""
        return max((publisher.spool.oldest_age_s() for publisher in self._publishers.copy().values()), default=0.0)


@contextmanager
def in_background(publisher: Publisher, stop: threading.Event) -> Iterator[None]:
    """Settle the window and replay the spool on two threads until the block ends. Then settle what is in the window.

    An error of a thread sets `stop` and is raised when the block ends. Without a replay the spool would only fill. What
    is in the window when an error ends the first thread is reported as not accepted.
    """
    ended = threading.Event()

    def settle() -> None:
        try:
            while publisher.settle(_TICK_S) or not ended.is_set():
                pass
        finally:
            stop.set()  # nothing enters the window from here on
            publisher.abandon("the publisher has ended")

    def on_end(thread: Future[None]) -> None:
        stop.set()
        if (error := thread.exception()) is not None:
            _log.error("publisher has failed, it takes no more images", reason=repr(error))

    with ThreadPoolExecutor(2, thread_name_prefix="publisher") as executor:
        threads = [executor.submit(settle), executor.submit(publisher.replay.run)]
        for thread in threads:
            thread.add_done_callback(on_end)
        try:
            yield
        finally:
            ended.set()
            threads[0].exception()
            stop.set()
    for thread in threads:
        thread.result()
