"""One or two hosts on a simulated chip: python -m bench.hosts. Prints a table.

The chip is that of the stand-in (tests/standin). It computes one image at a time, and moving an image to it and its
features back takes as long as computing. Everything else is real: the host processes, their protocol and their memory.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from patchline import config
from patchline.devices import backbone, loading
from patchline.runtime import logs
from tests.standin import installation

STANDIN = Path(installation.__file__).parent
_NAME, _SIDE = "efficientnet_lite0", 128
_CHIP = backbone.Device("ascend", 0)
_WARM_UP = 5


def main() -> None:
    """Measure one host, two, one, two and so on, in one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=60, help="of each measurement (60)")
    parser.add_argument("--rounds", type=int, default=3, help="each of one and of two hosts (3)")
    parser.add_argument("--compute-ms", type=float, default=100.0, help="of an image on the chip (100)")
    parser.add_argument("--transfer-ms", type=float, default=100.0, help="of an image and its features (100)")
    options = parser.parse_args()
    logs.configure("error")
    rates: dict[int, list[float]] = {1: [], 2: []}
    with _machine(options.compute_ms, options.transfer_ms) as models:
        for _ in range(options.rounds):
            for hosts, measured in rates.items():
                measured.append(_images_per_s(models, hosts, options.images))
    print("| hosts on the chip | images/s in each run | median |\n|---|---|---|")
    for hosts, measured in rates.items():
        print(f"| {hosts} | {', '.join(f'{rate:.1f}' for rate in measured)} | {statistics.median(measured):.1f} |")
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    print(f"\ntwo hosts against one, run by run: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")


@contextlib.contextmanager
def _machine(compute_ms: float, transfer_ms: float) -> Iterator[Path]:
    """A machine with the SDK, one chip and a compiled model. Yield the folder of the models."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chip = {"name": "310", "health": "OK", "card": 0, "memory_mb": 8192}
        (folder / "chips.json").write_text(json.dumps([chip]))
        os.environ |= {
            "MX_SDK_HOME": str(installation.install(folder)),
            "PATCHLINE_MINDX_PYTHON": sys.executable,
            "STANDIN_MACHINE": name,
            "STANDIN_COMPUTE_MS": str(compute_ms),
            "STANDIN_TRANSFER_MS": str(transfer_ms),
        }
        settings = shutil.copy(config.PACKAGED, folder)  # the models are beside it
        command = [sys.executable, "-m", "patchline", "om", _NAME, "--side", str(_SIDE), "--config", settings]
        path = f"{STANDIN / 'bin'}:{os.environ['PATH']}"
        subprocess.run(command, env=os.environ | {"PATH": path}, check=True, stdout=subprocess.DEVNULL)
        yield folder / "models"


def _images_per_s(models: Path, hosts: int, count: int) -> float:
    """Compute the features of `count` images, by one thread more than there are hosts, as a worker does."""
    images = np.random.default_rng(0).integers(0, 255, (count, 1, _SIDE, _SIDE, 3), np.uint8)
    with (
        contextlib.closing(loading.load(models, _NAME, _SIDE, _CHIP, streams=hosts + 1, hosts=hosts)) as loaded,
        ThreadPoolExecutor(hosts + 1) as lanes,
    ):
        list(lanes.map(loaded.extract, images[:_WARM_UP]))
        started = time.monotonic()
        list(lanes.map(loaded.extract, images))
        return count / (time.monotonic() - started)


if __name__ == "__main__":
    main()
