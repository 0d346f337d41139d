"""What a test itself logs: no thread that an earlier test has left adds to it."""

import threading

import structlog
from structlog.testing import capture_logs


def capture_own_logs():
    """Capture what this thread logs, as `structlog.testing.capture_logs` does what all threads log."""
    own = threading.get_ident()

    def leave_out_others(_, __, entry):
        if threading.get_ident() != own:
            raise structlog.DropEvent
        return entry

    return capture_logs([leave_out_others])
