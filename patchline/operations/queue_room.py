"""What the queues of RabbitMQ hold when all are full, for `patchline size` and the budget of docs/operations.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from patchline import config
from patchline.protocol import topology
from patchline.runtime import connections

MESSAGE_BYTES = 1_500  # of a verdict, with its properties, rounded up; what a gate hears is no larger
LEDGER_BYTES = 700  # of an announcement, an act or a confirmation, the same
GATES = 2  # of a line: one acts, one stands by
_ANY = "*"  # stands for the category, the line and the gate: the limits of their queues are the same


@dataclass(frozen=True)
class Room:
    """What one kind of queue holds.

    Attributes:
        queue: its name; a star stands for the category, or for line and gate.
        number: of such queues.
        each: bytes of the messages in a full one.
    """

    queue: str
    number: int
    each: int


def rooms(settings: config.Config, image_bytes: int, categories: int, lines: int) -> list[Room]:
    """Return the queues that have a limit, and what they hold when all are full.

    Left out are the suspects, which have no limit and are few, and the queues that only some plants have: of devices
    that send by MQTT, and of traces.

    Args:
        settings: with the limits.
        image_bytes: of an encoded image.
        categories: their number.
        lines: their number, each with two gates.
    """
    sizes = {
        topology.category_queue(topology.JOBS, _ANY): (categories, image_bytes),
        topology.category_queue(topology.BACKLOG, _ANY): (categories, image_bytes),
        topology.DEAD: (1, image_bytes),
        topology.VERDICTS: (1, MESSAGE_BYTES),
        topology.LEDGER: (1, LEDGER_BYTES),
        topology.PICTURES: (1, image_bytes),
        topology.gate_queue(_ANY, _ANY): (GATES * lines, MESSAGE_BYTES),
    }
    plant = connections.plant(settings, [_ANY]) | connections.ledger(settings) | topology.gate(_ANY, [_ANY])
    limits = {queue.name: queue.arguments for queue in plant.queues}
    return [Room(name, number, _most_bytes(limits[name], size)) for name, (number, size) in sizes.items()]


def disk_bytes(found: list[Room]) -> int:
    """Return the disk that a node of RabbitMQ needs for full queues: twice their messages.

    A segment stays until all of its messages are settled, and the log has messages once more.
    """
    return 2 * sum(room.number * room.each for room in found)


def _most_bytes(limits: Mapping[str, str | int], message_bytes: int) -> int:
    """Return what a queue holds. It is full at the first of its limits: 5,000 images of 200 kB are 1 GB, not 2."""
    bounds = [int(limits["x-max-length"]) * message_bytes] if "x-max-length" in limits else []
    bounds += [int(limits["x-max-length-bytes"])] if "x-max-length-bytes" in limits else []
    return min(bounds)
