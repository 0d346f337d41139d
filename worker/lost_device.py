"""The life of a worker after its device is lost: a process of it sleeps in the driver, and SIGKILL does not end it.

A restart would put another process onto the same chip, and another, until the driver has no place left. So the worker
stays: without jobs, not ready, alive, and with a metric that says so. It ends once the device has let its process go;
its supervisor then starts it again.
"""

from __future__ import annotations

import threading

import structlog

from patchline.protocol.errors import DeviceStuckError
from patchline.runtime import notify
from patchline.runtime.health import Health
from patchline.worker.metrics import Metrics

_log = structlog.get_logger(__name__)
_INTERVAL_S = 0.5


def wait(loss: DeviceStuckError, metrics: Metrics, health: Health, stop: threading.Event, start_s: float) -> None:
    """Wait until the device is back, or `stop` is set. This is progress: neither probe nor supervisor restarts it.

    Args:
        loss: why, and whether it is over.
        metrics: get the state of the device.
        health: alive, and not ready.
        stop: ends the worker.
        start_s: the time to start that is asked for again and again, if the worker has not been ready before.
    """
    _log.critical(
        "device lost, waiting until its process has ended; repair the card or restart the machine", reason=str(loss)
    )
    health.is_consuming = lambda: False
    metrics.set_device_lost(True)
    while not loss.is_over():
        health.record_progress()
        notify.send(notify.ALIVE)
        notify.extend_start(start_s)
        if stop.wait(_INTERVAL_S):
            return
    metrics.set_device_lost(False)
    _log.warning("process of the lost device has ended")
