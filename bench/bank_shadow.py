"""`python -m bench.bank_shadow`: what a shadow bank costs the jobs of a worker, alone and fully loaded.

One worker judges with a constant number of jobs on their way, and the shadow judges all of the images. The shadow is
made and ended in turn, and the latency with it is compared with that without it. With one job on its way, the next one
comes just when the shadow judges the one before: the worst case. With many, most images are skipped.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence

from bench import bank_switch, plant
from bench import line as lines
from bench.bank_switch import Load, wait
from bench.line import Line, Worker
from bench.plant import DEFAULT
from bench.table import Row, ratio_row
from patchline.banks import opening
from patchline.protocol import topology

_TURNS, _JOBS = 6, 200  # of each kind; jobs in each turn
_FEW, _MANY = 1, 12  # jobs on their way


def main() -> int:
    """Measure, print a table and write it to `out/bench-bank-shadow.json`."""

    def measured(line: Line, versions: list[str], turns: int) -> list[Row]:
        line.broker.declare(topology.ledger(1_000_000))
        return [row for jobs in (_FEW, _MANY) for row in measure(line, versions[1], jobs, turns)]

    bank_switch.run("bank_shadow", __doc__, ("--turns", _TURNS), measured)
    return 0


def measure(line: Line, shadow: str, on_their_way: int, turns: int) -> list[Row]:
    """Return the latency with a shadow against that without one, and which part of the images it has judged."""
    banks = opening.versions(line.settings)
    load = Load(line, plant.pictures(40, "image/jpeg"), on_their_way=on_their_way)
    spans: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
    with line.workers(DEFAULT) as workers:
        lines.wait_until_ready(workers)
        thread = threading.Thread(target=load.run, daemon=True)
        thread.start()
        _further(load)
        for _ in range(turns):
            banks.shadow(DEFAULT, shadow, 1.0, bank_switch.WHO, bank_switch.WHO)
            wait(lambda: workers[0].metric("patchline_shadow_bank_info") == 1)
            spans[True].append(_further(load))
            banks.end_shadow(DEFAULT, bank_switch.WHO, bank_switch.WHO)
            wait(lambda: workers[0].metric("patchline_shadow_bank_info") == 0)
            spans[False].append(_further(load))
        load.stop.set()
        thread.join(bank_switch.TIMEOUT_S)
        line.verdicts(len(load.sent))  # those that were on their way
        return [*_latencies(load, spans, on_their_way), _judged(workers, on_their_way)]


def _further(load: Load) -> tuple[float, float]:
    """Let some jobs be judged. Return when that began and ended."""
    began, before = time.perf_counter(), len(load.judged)
    wait(lambda: len(load.judged) >= before + _JOBS)
    return began, time.perf_counter()


def _latencies(load: Load, spans: dict[bool, list[tuple[float, float]]], on_their_way: int) -> list[Row]:
    found = {
        kind: [ms for began, ended in spans[kind] for ms in bank_switch.within(load, began, ended)] for kind in spans
    }
    return [
        ratio_row(
            f"jobs on their way: {on_their_way}; {name} latency, with a shadow : without",
            "ms",
            *(lines.quantile(found[kind], share) for kind in (True, False)),
        )
        for name, share in (("median", 0.5), ("p99", 0.99))
    ]


def _judged(workers: Sequence[Worker], on_their_way: int) -> Row:
    judged, skipped = (workers[0].metric(f"patchline_shadow_{name}_total") for name in ("judged", "skipped"))
    return ratio_row(
        f"jobs on their way: {on_their_way}; images judged by the shadow : all", "", judged, judged + skipped
    )


if __name__ == "__main__":
    sys.exit(main())
