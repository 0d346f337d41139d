"""How many workers, hosts, brokers and disks a plant needs, and how much network. What is uncertain is rounded up."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from patchline import config
from patchline.operations import queue_room, queueing
from patchline.operations.measured_costs import Costs
from patchline.protocol.errors import SetupError

MAX_UTILISATION = 0.8  # above it, a wait grows faster than the load
CHIP_MS = 27.7  # an Ascend 310, as the reference application reports
VARIATION = 1.0  # squared coefficient of variation of the service: hosts pause, rejects take longer
_REJECT_MS = 12.0  # heat map, regions and picture of a reject
_MEASURED_REJECTS = 0.1  # of the benchmark's images
_PUBLISHER_MS, _PUBLISHER_MS_PER_KB = 1.0, 0.025
_GATE_CORES = 0.11  # of a line, whose PLC is polled every 10 ms
_ARCHIVE_MS = 0.5
_MESSAGES, _MESSAGE_BYTES = 8, queue_room.MESSAGE_BYTES  # of a part besides its image, in all queues together
_RECORD_BYTES = 3_500  # of a part in the archive
_HEAT_MAP_BYTES = 500_000
_LOG_AND_SEGMENT = 2
_FRAMING = 1.1
_MAX_WORKERS = 10_000
_LEAST, _MOST = 1e-9, 1e12  # of what is asked for: no plant is beyond, and every answer is a finite number


@dataclass(frozen=True)
class Demand:
    """What a plant asks for.

    Attributes:
        lines: their number.
        rate: parts a second of one line.
        image_bytes: of an encoded image.
        rejects: the share of parts that are not passed.
        categories: their number.
        chips: the network runs on Ascend chips, otherwise on the CPU.
        p99_ms: 99 of 100 verdicts come within that time of the publishing.
        host_cores: of each host.
        brokers: nodes of RabbitMQ, 1 or 3.
        disk_mb_s: what a disk writes, in megabytes a second.
        hours: of work a day.

    Raises:
        SetupError: a number makes no sense.
    """

    lines: int
    rate: float
    image_bytes: int
    rejects: float = 0.05
    categories: int = 1
    chips: bool = False
    p99_ms: float = 500.0
    host_cores: int = 8
    brokers: int = 3
    disk_mb_s: float = 100.0
    hours: float = 24.0

    def __post_init__(self) -> None:
        """Check all numbers."""
        for name in ("lines", "rate", "image_bytes", "categories", "p99_ms", "host_cores", "disk_mb_s", "hours"):
            value = getattr(self, name)
            if not _LEAST <= value <= _MOST:
                bounds = "above 0" if value <= 0 or value != value else f"from {_LEAST:g} to {_MOST:g}"
                raise SetupError(f"--{name.replace('_', '-')} is {value}; it must be a number {bounds}")
        if not 0 <= self.rejects <= 1:
            raise SetupError(f"--rejects is {self.rejects}; it is a share, from 0 to 1")
        if self.hours > 24:
            raise SetupError(f"--hours is {self.hours}; a day has 24")
        if self.brokers not in (1, 3):
            raise SetupError(f"--brokers is {self.brokers}; RabbitMQ has 1 node, or 3, of which one may be lost")

    @property
    def images_per_s(self) -> float:
        """Of all lines."""
        return self.lines * self.rate


@dataclass(frozen=True)
class Workers:
    """The servers that judge, chips or cores, and how long parts wait for them.

    Attributes:
        count: their number.
        service_ms: one image on one of them.
        utilisation: the share of the time in which one is busy.
        mean_wait_ms: before service.
        p99_wait_ms: the same, of 99 in 100 images of independent lines.
        together_ms: the wait of the last one if all lines trigger at the same moment.
        p99_ms: from the publishing to the verdict, with the larger of the two waits.
    """

    count: int
    service_ms: float
    utilisation: float
    mean_wait_ms: float
    p99_wait_ms: float
    together_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Need:
    """A row of the answer: what is needed, how much of which unit, and what the number assumes."""

    what: str
    number: float
    unit: str
    because: str

    @property
    def value(self) -> str:
        """The number with its unit."""
        return f"{self.number} {self.unit}".rstrip()


def workers(demand: Demand, costs: Costs, given: int | None = None) -> Workers:
    """Return the fewest workers that are enough, or those that are given.

    Raises:
        SetupError: the given ones are too few, or no number of them answers in time.
    """
    service_ms, alone_ms = _service_ms(demand, costs), _alone_ms(demand, costs)
    if alone_ms > demand.p99_ms:
        text = f"an image alone takes {alone_ms:.1f} ms: no number of workers answers in {demand.p99_ms:g} ms"
        raise SetupError(f"{text}; allow more with --p99-ms")
    first = max(1, math.ceil(demand.images_per_s * service_ms / 1000 / MAX_UTILISATION))
    if given is None:
        return _fewest(first, demand, costs)
    if not 0 < given <= _MAX_WORKERS:
        raise SetupError(f"--workers is {given}; it must be a number from 1 to {_MAX_WORKERS}")
    found = None if given < first else _with(given, demand, costs)
    if found is not None and _enough(found, demand):
        return found
    why = f"above {MAX_UTILISATION:.0%} busy" if found is None else f"p99 is {found.p99_ms:.0f} ms"
    need = _fewest(first, demand, costs).count
    raise SetupError(f"--workers {given} are too few: {why}; it takes {need} or more")


def _fewest(first: int, demand: Demand, costs: Costs) -> Workers:
    """Return the fewest workers from `first` on that answer in time.

    Raises:
        SetupError: they are too many for one plant.
    """
    alone_ms = _alone_ms(demand, costs)
    # The images that a worker takes one after the other, if all lines trigger at once.
    turns = 1 + int(min(demand.lines, (demand.p99_ms - alone_ms) / _service_ms(demand, costs)))
    count = max(first, math.ceil(demand.lines / turns))
    while count <= _MAX_WORKERS:
        if _enough(found := _with(count, demand, costs), demand):
            return found
        count += 1
    raise SetupError(f"it takes more than {_MAX_WORKERS} workers; check --lines, --rate and the costs")


def _enough(found: Workers, demand: Demand) -> bool:
    return found.p99_ms <= demand.p99_ms


def _with(count: int, demand: Demand, costs: Costs) -> Workers:
    service_ms = _service_ms(demand, costs)
    # RabbitMQ hands an image to a worker at once, up to its prefetch, whether it is busy or not: a queue for each.
    queue = (1, demand.images_per_s / count, service_ms / 1000, VARIATION)
    p99_wait_ms = 1000 * queueing.wait_s(*queue)
    together_ms = queueing.simultaneous_wait_s(demand.lines, count, service_ms)
    return Workers(
        count=count,
        service_ms=service_ms,
        utilisation=demand.images_per_s * service_ms / 1000 / count,
        mean_wait_ms=1000 * queueing.mean_wait_s(*queue),
        p99_wait_ms=p99_wait_ms,
        together_ms=together_ms,
        p99_ms=_alone_ms(demand, costs) + max(p99_wait_ms, together_ms),
    )


def _service_ms(demand: Demand, costs: Costs) -> float:
    return CHIP_MS if demand.chips else _host_ms(demand, costs)


def _alone_ms(demand: Demand, costs: Costs) -> float:
    """The time of an image that waits for no other."""
    return _host_ms(demand, costs) + (CHIP_MS if demand.chips else 0.0)


def _host_ms(demand: Demand, costs: Costs) -> float:
    """Core-milliseconds of a worker for an image. Fewer rejects than those measured are no credit."""
    measured = costs.host if demand.chips else costs.worker
    return measured.ms + max(0.0, demand.rejects - _MEASURED_REJECTS) * _REJECT_MS


def needs(demand: Demand, costs: Costs, found: Workers, settings: config.Config) -> Iterator[Need]:
    """Yield the answer, row by row.

    Raises:
        SetupError: a node of RabbitMQ does not fit on a host.
    """
    if costs.unmeasured:
        because = f"incomplete, a slower one takes more: {', '.join(costs.unmeasured)}"
        yield Need("banks that were not measured", len(costs.unmeasured), "", because)
    yield from _for_workers(demand, costs, found)
    yield from _for_hosts(demand, costs, found)
    yield from _for_disks(demand, settings)
    yield from _for_network(demand)


def _for_workers(demand: Demand, costs: Costs, found: Workers) -> Iterator[Need]:
    load = f"{demand.lines} lines of {demand.rate:g} parts/s"
    yield Need("images a second", _up(demand.images_per_s, 2), "", load)
    what = "chips, each with a worker" if demand.chips else "CPU workers, each of one core"
    source = "an Ascend 310" if demand.chips else costs.worker.source
    yield Need(what, found.count, "", f"{found.service_ms:.1f} ms an image: {source}")
    yield Need("utilisation", _up(found.utilisation, 2), "", f"a share of the time, at most {MAX_UTILISATION}")
    because = f"each worker has a queue, its prefetch: M/G/1, variation {VARIATION:g}"
    yield Need("mean wait", _up(found.mean_wait_ms, 1), "ms", because)
    because = "lines independent of each other: at most Poisson"
    yield Need("p99 of the wait", _up(found.p99_wait_ms, 1), "ms", because)
    because = "the last of one image a line, of one category"
    yield Need("wait if all lines trigger at once", _up(found.together_ms, 1), "ms", because)
    because = "service, and the larger wait; idle network and disk"
    yield Need("p99, published to verdict", _up(found.p99_ms, 1), "ms", because)


def _for_hosts(demand: Demand, costs: Costs, found: Workers) -> Iterator[Need]:
    rate, worker_ms = demand.images_per_s, _host_ms(demand, costs)
    publisher_ms = _PUBLISHER_MS + _PUBLISHER_MS_PER_KB * demand.image_bytes / 1000
    judging = rate * worker_ms / 1000 / MAX_UTILISATION if demand.chips else float(found.count)
    other = (rate * (publisher_ms + _ARCHIVE_MS) / 1000 + demand.lines * _GATE_CORES) / MAX_UTILISATION
    broker = rate * costs.rabbitmq.ms / 1000 / MAX_UTILISATION
    if broker > demand.host_cores:
        text = f"a node of RabbitMQ takes {broker:.1f} cores, and a host has {demand.host_cores}"
        raise SetupError(f"{text}; say more --host-cores, or split the plant")
    source = costs.host.source if demand.chips else costs.worker.source
    yield Need("cores of the workers", _cores(judging), "", f"{worker_ms:.1f} ms an image: {source}")
    because = f"publishers {publisher_ms:.1f} ms, archive {_ARCHIVE_MS} ms an image, gates {_GATE_CORES} a line"
    yield Need("cores of publishers, gates, archive", _cores(other), "", f"{because}: docs/performance.md")
    broker_because = f"{costs.rabbitmq.ms:.1f} ms an image: {costs.rabbitmq.source}; one leads all queues"
    yield Need("cores of a node of RabbitMQ", _cores(broker), "", broker_because)
    nodes = "one may be lost" if demand.brokers == 3 else "its disk is the weakest part; 3 survive the loss of one"
    yield Need("nodes of RabbitMQ", demand.brokers, "", nodes)
    hosts = _hosts(demand, _cores(judging) + _cores(other), _cores(broker))
    yield Need("hosts", hosts, "", f"of {demand.host_cores} cores")


def _hosts(demand: Demand, cores: int, broker_cores: int) -> int:
    """Return the number of hosts. Nodes of RabbitMQ share theirs with workers only where one host has all."""
    if demand.brokers == 1 and cores + broker_cores <= demand.host_cores:
        return 1
    return math.ceil(cores / demand.host_cores) + demand.brokers


def _for_disks(demand: Demand, settings: config.Config) -> Iterator[Need]:
    rate = demand.images_per_s
    written = rate * (demand.image_bytes + _MESSAGES * _MESSAGE_BYTES) * _LOG_AND_SEGMENT / 1e6
    because = "images and messages, in the log and in a segment"
    yield Need("disk of a node, written", _up(written, 1), "MB/s", because)
    because = "one a message; one sync has all that wait"
    yield Need("syncs of a node, at most", _up(rate * (_MESSAGES + 1)), "/s", because)
    disks = math.ceil(written / demand.disk_mb_s / MAX_UTILISATION)
    because = f"{disks} a node of {demand.disk_mb_s:g} MB/s, 1 of the archive"
    yield Need("disks", disks * demand.brokers + 1, "", because)
    rooms = queue_room.rooms(settings, demand.image_bytes, demand.categories, demand.lines)
    because = f"twice what the queues hold; categories: {demand.categories}"
    yield Need("disk of a node, all queues full", _up(queue_room.disk_bytes(rooms) / 1e9), "GB", because)
    kept = demand.rejects + (1 - demand.rejects) * settings.archive.pictures.pass_share
    pictures = kept * (demand.image_bytes + _HEAT_MAP_BYTES)
    daily = rate * 3600 * demand.hours * (_RECORD_BYTES + pictures) / 1e9
    because = f"{demand.hours:g} h: 3.5 kB a part, image and heat map of {kept:.1%}"
    yield Need("archive, a day", _up(daily, 1), "GB", because)


def _for_network(demand: Demand) -> Iterator[Need]:
    one_way = demand.images_per_s * (demand.image_bytes + _MESSAGES * _MESSAGE_BYTES) * 8 * _FRAMING / 1e6
    yield Need("network into a node", _up(one_way), "Mbit/s", "from all publishers; one node leads all queues")
    because = f"to the workers, and {demand.brokers - 1} copies to other nodes"
    yield Need("network out of it", _up(one_way * demand.brokers), "Mbit/s", because)


def _cores(value: float) -> int:
    return max(1, math.ceil(value))


def _up(value: float, decimals: int = 0) -> float:
    """Round up."""
    scale: int = 10**decimals
    rounded = math.ceil(round(value * scale, 6)) / scale  # what a float adds is no reason to round up
    return rounded if decimals else int(rounded)
