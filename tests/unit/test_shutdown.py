import os
import signal

import pytest

from patchline.runtime import signals


@pytest.mark.timeout(20)
def test_a_signal_is_heard_though_it_comes_while_the_main_thread_holds_the_events_lock():
    with signals.stop_event() as stop:
        with stop._cond:  # as `stop.wait` does for a moment
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10)


def test_former_handlers_come_back():
    former = signal.getsignal(signal.SIGTERM)
    with signals.stop_event():
        assert signal.getsignal(signal.SIGTERM) is not former
    assert signal.getsignal(signal.SIGTERM) is former
