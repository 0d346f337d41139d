"""`make bench-against REV=5fd44a6`: this build and that of a revision in one run, A B A B.

Each measurement has a RabbitMQ and a Redis of its own, and the same images. The network alone is measured with this
build, right after the line. Bounds (`bench.questions`) are printed with their ratios; the exit code ignores them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import bounds, builds, memory
from bench.plant import DEFAULT, DEFAULT_BF16
from bench.questions import BOUNDS, Options, Question, questions
from bench.table import Row, Table, of_this_machine
from patchline.runtime import logs
from patchline.services import server


def main() -> int:
    """Measure, print, and write `out/bench-against.json`.

    Returns:
        The exit code: 2, with one line on stderr, if something is missing; 0 otherwise.
    """
    known = {question.name: question for question in questions()}
    parser = argparse.ArgumentParser(prog="python -m bench.against", description=__doc__)
    parser.add_argument("revision", help="of git, such as 5fd44a6")
    parser.add_argument("--rounds", type=int, default=2, help="of both builds (2)")
    parser.add_argument("--paced-s", type=float, default=15.0, help="seconds at 36 images a second, each round (15)")
    parser.add_argument("--growth", type=int, default=4_000, help="images for the growth of a worker (4,000)")
    parser.add_argument("--loads", nargs="*", choices=known, default=list(known), metavar="NAME", help=", ".join(known))
    given = parser.parse_args()
    logs.configure("error")
    options = Options(given.rounds, given.paced_s, given.growth)
    try:
        table = compare(given.revision, [known[name] for name in given.loads], options)
    except server.ServiceError as error:
        print(f"bench-against: {error}", file=sys.stderr)
        return 2
    table.show()
    table.write(Path("out/bench-against.json"))
    missed = [f"{row.name}: {row.ratio:.3g}, {row.bound}" for row in table.rows if row.bound.endswith("missed")]
    print("\n".join(missed) or "no bound is missed")
    return 0


def compare(revision: str, asked: Sequence[Question], options: Options) -> Table:
    """Ask questions of this build and that of a revision. The time that each takes is printed.

    Raises:
        ServiceError: a build cannot be installed or does not answer.
    """
    categories = {name: None for question in asked for name in question.categories}
    rows: list[Row] = []
    lap = _stopwatch()
    with tempfile.TemporaryDirectory() as name, builds.build_of(revision, Path(name)) as other:
        ours = builds.this_build(Path(name))
        lap(f"installing {revision}")
        for build in (ours, other):
            missing = {memory.TWIN} if build is ours else {memory.TWIN, DEFAULT_BF16}  # the other has no such category
            build.make_plant(tuple(name for name in categories if name not in missing))
            if memory.TWIN in categories:
                build.add_category(memory.TWIN, DEFAULT)
            lap(f"the plant of {build.name}")
        for question in asked:
            rows += question.ask(ours, other, options)
            lap(question.name)
    return of_this_machine(list(bounds.judged(rows, BOUNDS)))


def _stopwatch() -> Callable[[str], None]:
    """Return a function that prints what was done since its last call, and how long it took."""
    times = [time.monotonic()]

    def lap(what: str) -> None:
        times.append(time.monotonic())
        print(f"{what}: {times[-1] - times[-2]:.0f} s", file=sys.stderr, flush=True)

    return lap


if __name__ == "__main__":
    sys.exit(main())
