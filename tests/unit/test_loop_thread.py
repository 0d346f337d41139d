"""A thread with an event loop."""

import asyncio
import contextlib
import threading

import pytest

from patchline.plc.loop_thread import LoopThread


@pytest.fixture
def loop():
    with contextlib.closing(LoopThread("test")) as thread:
        yield thread


async def result():
    return threading.current_thread().name


def test_a_coroutine_runs_on_the_thread_and_its_result_returns(loop):
    assert loop.run(result(), 60) == "test"


def test_a_coroutine_is_cancelled_at_the_time_limit(loop):
    cancelled = threading.Event()

    async def never():
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        loop.run(never(), 0.01)
    assert cancelled.wait(60)


def test_a_coroutine_that_is_cancelled_from_elsewhere_is_a_time_limit_too(loop):
    async def cancelled():
        raise asyncio.CancelledError

    with pytest.raises(TimeoutError):
        loop.run(cancelled(), 60)


def test_a_closed_loop_has_cancelled_its_tasks_and_ended_its_thread(loop):
    cancelled = []

    async def start():
        async def never():
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.append(True)

        loop.task = asyncio.create_task(never())
        await asyncio.sleep(0)

    loop.run(start(), 60)
    loop.close()
    loop.close()
    assert cancelled == [True]
    assert "test" not in {thread.name for thread in threading.enumerate()}
