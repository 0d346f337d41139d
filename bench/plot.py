"""`python -m bench.plot`: plot the cost of an image against bank size, image size and number of devices.

The costs by bank and image size are measured here. The rates by number of devices come from `out/bench.json`.
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
from bench.random_network import LAYER2
from bench.table import median_ms
from patchline.devices import backbone, loading
from patchline.inspection.search import exact_search

OUT = Path("docs/performance.png")
_BANK_ROWS = (512, 1024, 2048, 4096, 8192, 16384, 32768)
_SIDES = (128, 192, 256, 320, 384, 448, 512)


def main() -> None:
    """Measure and write `docs/performance.png`."""
    mpl.use("Agg")
    figure, (banks, sides, devices) = pyplot.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    labels = ("IndexFlatL2", "ours, of all patches", "ours, for a score")
    for label, durations in zip(labels, zip(*_search_ms(), strict=True), strict=True):
        banks.loglog(_BANK_ROWS, durations, "o-", label=label)
    banks.set(title="search of 784 x 512, one thread", xlabel="rows in the bank", ylabel="ms")
    banks.legend()
    sides.plot(_SIDES, list(map(_network_ms, _SIDES)), "o-")
    sides.set(title="network (efficientnet_lite0), one stream", xlabel="side of the image, pixels", ylabel="ms", ylim=0)
    counts, rates = zip(*_device_rates(), strict=True)
    devices.plot(counts, rates, "o-", label="measured")
    devices.plot(counts, [rates[0] * count for count in counts], ":", label="without a limit")
    devices.set(title="simulated devices on one host", xlabel="devices of 27.7 ms an image", ylabel="images/s", ylim=0)
    devices.legend()
    for axes in (banks, sides, devices):
        axes.grid(alpha=0.3)
    figure.savefig(OUT, dpi=110)


def _search_ms() -> Iterator[list[float]]:
    """For each bank, the duration of a search by faiss, of all patches, and for a score."""
    banks, (image, *_) = searches.build_banks(searches.Source(LAYER2, 104, _BANK_ROWS))
    for bank in banks:
        search = exact_search.with_pruning(bank)
        calls = (
            partial(exact_search.flat_index(search.centred).search, image, 1),
            partial(search.nearest, image),
            partial(searches.top_distances, image, search),
        )
        yield [median_ms(call, 9) for call in calls]


def _network_ms(side: int) -> float:
    loaded = loading.load(Path("models"), "efficientnet_lite0", side, backbone.CPU, 1)
    image = np.random.default_rng(0).integers(0, 255, (1, side, side, 3), dtype=np.uint8)
    return median_ms(lambda: loaded.extract(image), 15)


def _device_rates() -> list[tuple[int, float]]:
    """Pairs of a number of devices and its images/s."""
    rows = json.loads(Path("out/bench.json").read_text(encoding="utf-8"))["rows"]
    by_count = {int(row["name"].split()[0]): row for row in rows if "simulated devices" in row["name"]}
    return [(1, by_count[2]["other"]), *((count, row["ours"]) for count, row in sorted(by_count.items()))]


if __name__ == "__main__":
    main()
