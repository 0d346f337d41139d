"""`python -m bench.coreset`: time and memory of the coreset. Each measurement runs in a new process."""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
from numpy.typing import NDArray

from bench import isolated
from patchline.banks import coreset
from patchline.runtime import terminal

_DIM = 512
_RATIO = 0.01
_SIZES = (15_000, 30_000, 60_000)


def main() -> None:
    """Measure our selection and a plain numpy version in turn, and print a table."""
    rows = []
    for size in _SIZES:
        ours, plain = _run("ours", size), _run("plain", size)
        rows.append([f"{size:,} x {_DIM}", ours[0], plain[0], plain[0] / ours[0], ours[1], plain[1]])
    columns = ("patches, to 1 %", "ours s", "plain numpy s", "ratio", "ours, added MB", "plain numpy, added MB")
    terminal.table("the coreset", columns, rows)


def _run(method: str, size: int) -> tuple[float, float]:
    """Run a measurement in a new process: return its seconds, and the MB that it takes in addition to the features."""
    seconds, megabytes = isolated.run_module("bench.coreset", method, str(size), kernels=None).split()
    return float(seconds), float(megabytes)


def _measure(method: str, size: int) -> None:
    features = np.random.default_rng(0).standard_normal((size, _DIM), dtype=np.float32)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    points, count = coreset.project(features, 0), int(size * _RATIO)
    chosen = coreset.select(points, count, 0) if method == "ours" else _plain(points, count)
    seconds = time.perf_counter() - started
    added_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1000
    if len(set(chosen.tolist())) != count:
        raise SystemExit("a point was chosen twice")
    print(f"{seconds:.3f} {added_mb:.1f}")


def _plain(points: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Greedy k-centre, one centre at a time."""
    chosen = [0]
    nearest = ((points - points[0]) ** 2).sum(axis=1)
    while len(chosen) < count:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    return np.array(chosen, np.int64)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        _measure(sys.argv[1], int(sys.argv[2]))
    else:
        main()
