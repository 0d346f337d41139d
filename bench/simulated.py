"""A worker with a simulated device that takes 27.7 ms per image, one image at a time, and uses no CPU.

The rest is the real worker, from decoding to the confirmed verdict: it shows how many devices one host can feed. The
reference application reports 27.7 ms per image for an Ascend 310.
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
_CONCURRENCY = 2  # as for a chip: one job on the device, one before or after it


class SimulatedDevice:
    """A backbone that waits and returns the features of one image that it has extracted before."""

    def __init__(self, real: backbone.Backbone) -> None:
        self.manifest, self.side, self.grid, self.precision = real.manifest, real.side, real.grid, real.precision
        self.model_sha256, self.source_sha256 = real.model_sha256, real.source_sha256
        self._features = real.extract(_good_image(real.side))
        self._device = threading.Lock()

    def extract(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `patchline.devices.backbone.Backbone`."""
        with self._device:
            time.sleep(DEVICE_S * len(images))
        return self._features

    def close(self) -> None:
        """Do nothing: there is no device to release."""


def _good_image(side: int) -> NDArray[np.uint8]:
    """Return an image like those of the bank: uint8 [1, side, side, 3]."""
    (image,) = pictures(1, "image/png")
    rgb = decode.decode(image, "image/png", config.Images())
    return preprocess.prepare(rgb, side, side)[None]


def main() -> None:
    """Run the worker; it has these options of `patchline worker`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    parser.add_argument("--category")
    parser.add_argument("--metrics-port", type=int)
    options = parser.parse_args()
    logs.configure("warning")
    settings = config.load(options.config)
    settings = settings.model_copy(update={"worker": settings.worker.model_copy(update={"concurrency": _CONCURRENCY})})
    real = loading.load
    loading.load = lambda *arguments, **options: SimulatedDevice(real(*arguments, **options))
    # The simulated device returns the same features for every image: golden scores cannot match.
    golden.require_match = lambda inspector, recorded, tolerance: golden.compare(inspector, recorded)
    with signals.stop_event() as stop:
        served = [options.category] if options.category else []  # none: all
        process.run(settings, backbone.CPU, served, options.metrics_port, stop)


if __name__ == "__main__":
    main()
