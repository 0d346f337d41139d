"""`python -m bench.memory [REV]`: the memory of a worker that serves two categories, what holds it, and its growth.

This build and that of a revision judge the same images in turn, at full speed. The memory of a worker goes up and down
with what it inspects at the moment, so each value is the median of ten, one each 100 images.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import builds, plant
from bench import line as lines
from bench.builds import Build
from bench.line import Worker
from bench.plant import DEFAULT, WIDE
from bench.rows import JPEG
from bench.table import Row, of_this_machine, ratio_row
from patchline.broker.base import Message
from patchline.broker.rabbitmq import RabbitBroker
from patchline.protocol import messages, topology
from patchline.runtime import connections, logs, terminal
from patchline.services import private_servers, server

TWIN = "twin"  # with the recipe of DEFAULT, and so with its backbone
_ONE_BACKBONE, _TWO_BACKBONES = (DEFAULT, TWIN), (DEFAULT, WIDE)
_EARLY = 1000  # images
_STEP, _WINDOW = 100, 10  # images between two measurements; measurements that count
_OWN = "not mapped from files"
_HOLDERS = ("openvino", "cv2", "opencv_python", "faiss", "numpy", "pydantic", "PIL", ".prepared", "python")
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ +(/.*)?")  # of proc(5), smaps

Held = Counter[str]  # bytes by what holds them


def main() -> int:
    """Measure and print. Returns the exit code: 2, with one line on stderr, if something is missing; 0 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("revision", nargs="?", help="of git, such as 5fd44a6; by default only this build")
    parser.add_argument("--images", type=int, default=20_000, help="for the growth (20000)")
    options = parser.parse_args()
    logs.configure("error")
    try:
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            compared = [builds.this_build(Path(name))]
            if options.revision is not None:
                compared.append(stack.enter_context(builds.build_of(options.revision, Path(name))))
            for build in compared:
                build.make_plant((WIDE, DEFAULT))
                build.add_category(TWIN, DEFAULT)
            of_this_machine(list(rows(compared, options.images))).show()
    except server.ServiceError as error:
        print(f"memory: {error}", file=sys.stderr)
        return 2
    return 0


def rows(compared: Sequence[Build], images: int) -> Iterator[Row]:
    """Compare the memory of a worker of the first build with that of the last one, and with its own after more images.

    Raises:
        ServiceError: verdicts are missing.
    """
    for name, categories in (("one backbone", _ONE_BACKBONE), ("two backbones", _TWO_BACKBONES)):
        held = [next(_measured(build, categories, [_EARLY])) for build in compared]
        ours, other = held[0], held[-1]
        for build, what in zip(compared, held, strict=True):
            cells = [(holder, size / 1e6) for holder, size in what.most_common()]
            terminal.table(f"{build.name}, two categories, {name}", ("what holds it", "MB"), cells)
        title = f"two categories, {name}: memory after {_EARLY} images"
        yield ratio_row(title, "MB", ours.total() / 1e6, other.total() / 1e6)
        yield ratio_row(f"{title}, {_OWN}", "MB", ours[_OWN] / 1e6, other[_OWN] / 1e6)
    early, late = _measured(compared[0], _ONE_BACKBONE, [_EARLY, images])
    name = f"memory after {images} images : after {_EARLY}"
    yield ratio_row(name, "MB", late.total() / 1e6, early.total() / 1e6)


def _measured(build: Build, categories: tuple[str, ...], counts: Sequence[int]) -> Iterator[Held]:
    """Let a worker judge images of its categories in turn. Yield what holds its memory after each count of images."""
    images, done = plant.pictures(300, JPEG), 0
    recent: deque[Held] = deque(maxlen=_WINDOW)
    with (
        private_servers.running() as servers,
        RabbitBroker(servers.amqp_url) as broker,
        build.workers(servers, categories) as (worker,),
    ):
        lines.wait_until_ready([worker])
        for count in counts:
            while done < count:
                for number in range(done, done + _STEP):
                    _send(broker, categories[number % len(categories)], number, images[number % len(images)])
                lines.wait_for_verdicts([worker], done)  # those of the step before: the worker always has work
                done += _STEP
                recent.append(holders(worker))
            yield sorted(recent, key=Counter.total)[len(recent) // 2]
        lines.wait_for_verdicts([worker], done)


def _send(broker: RabbitBroker, category: str, number: int, image: bytes) -> None:
    headers: dict[str, str | int] = {"line": "bench", "part_id": f"p{number}", "category": category}
    headers["captured_at"] = connections.now_ms()
    broker.publish(topology.JOBS, f"bench.{category}", Message(image, f"{number}", messages.JOB_TYPE, JPEG, headers))


def holders(worker: Worker) -> Held:
    """Return what holds the resident memory of a process, from its mappings (proc(5))."""
    held: Held = Counter()
    holder = _OWN
    for line in Path(f"/proc/{worker.process_id}/smaps").read_text(encoding="utf-8").splitlines():
        mapping = _MAPPING.match(line)
        if mapping is not None:
            holder = _holder(mapping[1])
        elif line.startswith("Rss:"):
            held[holder] += int(line.split()[1]) * 1024
        elif line.startswith("Anonymous:"):  # of the same mapping: pages that are the process's own
            own = int(line.split()[1]) * 1024
            held[holder] -= own
            held[_OWN] += own
    return +held


def _holder(path: str | None) -> str:
    if path is None:
        return _OWN
    return next((name for name in _HOLDERS if name in path), "other libraries")


if __name__ == "__main__":
    sys.exit(main())
