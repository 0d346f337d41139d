import os
import signal

import pytest

from patchline.runtime import signals


@pytest.mark.timeout(20)
def test_a_signal_while_the_main_thread_holds_the_lock_of_the_event_sets_the_event():
    with signals.stop_event() as stop:
        with stop._cond:  # as `stop.wait` does for a moment
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10)


def test_previous_handlers_are_restored():
    previous = signal.getsignal(signal.SIGTERM)
    with signals.stop_event():
        assert signal.getsignal(signal.SIGTERM) is not previous
    assert signal.getsignal(signal.SIGTERM) is previous
