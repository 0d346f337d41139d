"""How much a worker does at once: by its device, by the CPUs and the memory of its container, and by the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from patchline import config
from patchline.devices.backbone import Device
from patchline.devices.host_pool import MAX_PROCESSES
from patchline.protocol.errors import SetupError
from patchline.runtime.container import Limits

_EXTRA_LANES = 2  # inspect while the lane of a core waits for the GIL or for the I/O thread of RabbitMQ
_CHIP_EXTRA_LANES = 1  # each host of a chip runs one image at a time; the next one is prepared meanwhile
_LANES_PER_INSPECTION = 3  # two of three may wait for RabbitMQ, whose disk may be slow
_BYTES_PER_PIXEL = 9  # of an image that is decoded: with 16 bits, it exists once more in 8 bits
_DECODED_SHARE, _ENCODED_SHARE = 0.5, 0.25  # of the memory; the rest is for models, banks and Python


@dataclass(frozen=True)
class Sizes:
    """Numbers of images.

    Attributes:
        concurrency: inspected at the same time.
        lanes: threads that carry an image each.
        prefetch: received and not yet settled, with those that wait for a lane.
        max_held: encoded images of the largest accepted size that fit into the memory; None if it is not limited.
    """

    concurrency: int
    lanes: int
    prefetch: int
    max_held: int | None = None

    def prefetch_of_each(self, categories: int) -> int:
        """Return the prefetch of each category's queue of jobs, so that one category alone can use all lanes.

        The memory bounds the sum, together with that of the backlog, which has half of it.
        """
        if self.max_held is None:
            return self.prefetch
        return max(1, min(self.prefetch, self.max_held * 2 // (3 * max(1, categories))))


def choose(settings: config.Config, device: Device, limits: Limits) -> Sizes:
    """Return the sizes of a worker. What the configuration sets is taken as it is.

    If the memory of the container is limited, images of the largest accepted size must fit into it.
    """
    lanes = settings.worker.lanes
    concurrency = settings.worker.concurrency or _default_concurrency(settings, device, limits)
    if not settings.worker.concurrency and lanes:
        concurrency = min(concurrency, lanes)
    held, max_held = (_LANES_PER_INSPECTION + 1) * concurrency, None
    if limits.memory_bytes is not None:
        max_held = int(limits.memory_bytes * _ENCODED_SHARE) // settings.images.max_bytes
        held = min(held, max_held)
    lanes = lanes or max(concurrency, min(_LANES_PER_INSPECTION * concurrency, held - concurrency))
    return Sizes(concurrency, lanes, max(lanes, min(lanes + concurrency, held)), max_held)


def hosts(settings: config.Config, names: Sequence[str], device: Device) -> int:
    """Return the number of hosts that each backbone of some categories has on a chip.

    Raises:
        SetupError: those of all are more processes than a chip takes.
    """
    categories = [settings.category(name) for name in names]
    backbones = len({(category.backbone, category.imagesize, category.precision) for category in categories})
    count = settings.worker.hosts_per_chip
    if device.kind == "ascend" and backbones * count > MAX_PROCESSES:
        raise SetupError(
            f"{device}: {backbones} backbones with {count} hosts each are more than the {MAX_PROCESSES} processes that "
            "a chip takes; lower worker.hosts_per_chip, or serve fewer categories on this device with --category"
        )
    return count


def _default_concurrency(settings: config.Config, device: Device, limits: Limits) -> int:
    if device.kind == "cpu":
        concurrency = limits.cpus + min(limits.cpus, _EXTRA_LANES)
    else:
        concurrency = settings.worker.hosts_per_chip + _CHIP_EXTRA_LANES
    if limits.memory_bytes is None:
        return concurrency
    per_image = settings.images.max_pixels * _BYTES_PER_PIXEL
    return max(1, min(concurrency, int(limits.memory_bytes * _DECODED_SHARE) // per_image))
