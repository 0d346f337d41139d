"""`python -m bench.plot`: what an image costs, against the bank's size, the image's side and the number of devices.

The first two are measured here; devices come from `out/bench.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot

from bench import searches
from bench.table import milliseconds
from patchline.devices import backbone, loading
from patchline.inspection.search import exact_search

OUT = Path("docs/performance.png")
_BANKS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
_SIDES = (128, 192, 256, 320, 384, 448, 512)


def main() -> None:
    """Measure, and write the picture."""
    mpl.use("Agg")
    figure, (banks, sides, devices) = pyplot.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    labels = ("IndexFlatL2", "ours, of all patches", "ours, for a score")
    for label, took in zip(labels, zip(*_searches(), strict=True), strict=True):
        banks.loglog(_BANKS, took, "o-", label=label)
    banks.set(title="search of 784 x 512, one thread", xlabel="rows in the bank", ylabel="ms")
    banks.legend()
    sides.plot(_SIDES, list(map(_network, _SIDES)), "o-")
    sides.set(title="network (efficientnet_lite0), one stream", xlabel="side of the image, pixels", ylabel="ms", ylim=0)
    counts, rates = zip(*_devices(), strict=True)
    devices.plot(counts, rates, "o-", label="measured")
    devices.plot(counts, [rates[0] * count for count in counts], ":", label="without a limit")
    devices.set(title="simulated devices on one host", xlabel="devices of 27.7 ms an image", ylabel="images/s", ylim=0)
    devices.legend()
    for axes in (banks, sides, devices):
        axes.grid(alpha=0.3)
    figure.savefig(OUT, dpi=110)


def _searches() -> Iterator[list[float]]:
    banks, (image, *_) = searches.banks(searches.LARGE, _BANKS)
    for bank in banks:
        own = exact_search.with_pruning(bank)
        ways = (
            partial(own.index.search, image, 1),
            partial(own.nearest, image),
            partial(searches.for_score, image, own),
        )
        yield [milliseconds(way, 9) for way in ways]


def _network(side: int) -> float:
    loaded = loading.load(Path("models"), "efficientnet_lite0", side, backbone.CPU, 1)
    image = np.random.default_rng(0).integers(0, 255, (1, side, side, 3), dtype=np.uint8)
    return milliseconds(lambda: loaded.extract(image), 15)


def _devices() -> list[tuple[int, float]]:
    rows = json.loads(Path("out/bench.json").read_text(encoding="utf-8"))["rows"]
    found = {int(row["name"].split()[0]): row for row in rows if "simulated devices" in row["name"]}
    return [(1, found[2]["other"]), *((count, row["ours"]) for count, row in sorted(found.items()))]


if __name__ == "__main__":
    main()
