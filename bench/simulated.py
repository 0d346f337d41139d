"""A worker whose device is simulated: each image takes the device 27.7 ms, one after the other, and no CPU.

Everything else is the real worker, from decoding to the confirmed verdict, so it shows what one host can feed. 27.7 ms
is the time that the reference application reports of an Ascend 310.
"""

from __future__ import annotations

import argparse
import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.plant import pictures
from patchline import config
from patchline.banks import golden
from patchline.devices import backbone, loading
from patchline.inspection import decode, preprocess
from patchline.runtime import logs, signals
from patchline.worker import process

DEVICE_S = 0.0277
_AT_ONCE = 2  # one on the device, one before or behind it: as of a chip


class SimulatedDevice:
    """A Backbone that waits, and answers with features that it took once."""

    def __init__(self, real: backbone.Backbone) -> None:
        self.manifest, self.side, self.grid, self.precision = real.manifest, real.side, real.grid, real.precision
        self._features = real.extract(_good_part(real.side))
        self._device = threading.Lock()

    def extract(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `patchline.devices.backbone.Backbone`."""
        with self._device:
            time.sleep(DEVICE_S * len(images))
        return self._features

    def close(self) -> None:
        """Nothing to give back."""


def _good_part(side: int) -> NDArray[np.uint8]:
    """uint8 [1, side, side, 3]: an image of the kind that the bank was fitted with."""
    (image,) = pictures(1, "image/png")
    rgb = decode.decode(image, "image/png", config.Images())
    return preprocess.prepare(rgb, side, side)[None]


def main() -> None:
    """Run the worker; its arguments are those of `patchline worker`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    parser.add_argument("--category")
    parser.add_argument("--metrics-port", type=int)
    given = parser.parse_args()
    logs.set_up("warning")
    settings = config.load(given.config)
    settings = settings.model_copy(update={"worker": settings.worker.model_copy(update={"at_once": _AT_ONCE})})
    real = loading.load
    loading.load = lambda *arguments: SimulatedDevice(real(*arguments))
    golden.require_match = lambda inspect, recorded, tolerance: golden.compare(inspect, recorded)  # nobody's features
    with signals.on_signals() as stop:
        process.run(settings, backbone.CPU, [given.category], given.metrics_port, stop)


if __name__ == "__main__":
    main()
