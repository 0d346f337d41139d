"""The images of each part that has a number. Uses no clock.

A part may have several images, each with a job and a verdict of its own. A PLC has one result for the part, so the
worst image decides: the part is accepted only if each of them is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from patchline.gate.part_numbers import put
from patchline.gate.tracker import UNANNOUNCED, Part
from patchline.protocol.gate_messages import ActionRecord

_MAX_IMAGES = 1000  # of one part; a publisher that gives all its images one number must not fill the memory


@dataclass
class Image:
    """One image of a part. `rejected`: the arm was told to reject the part because of it."""

    part: Part
    due_at: float  # seconds on the monotonic clock
    rejected: bool = False


class Images:
    """The jobs of the parts on the line, by part number.

    Args:
        remember: number of parts to remember; 0: a number means nothing.
        is_over: returns True if the part of an image has left the line: a part with its number is another one.
    """

    def __init__(self, remember: int, is_over: Callable[[Image, float], bool]) -> None:
        self._remember = remember
        self._is_over = is_over
        self._images: OrderedDict[int, dict[str, Image]] = OrderedDict()

    def add(self, part: Part, due_at: float, rejected: bool = False) -> None:
        """Add an image, or that its part was rejected because of it."""
        if part.number is None or (isinstance(part, ActionRecord) and part.because == UNANNOUNCED):
            return
        images = self._images.get(part.number, {})
        if part.job_id not in images:
            images = dict(islice(images.items(), max(0, len(images) - _MAX_IMAGES + 1), None))
            put(self._images, part.number, images | {part.job_id: Image(part, due_at)}, self._remember)
        if rejected and part.number in self._images:
            self._images[part.number][part.job_id].rejected = True

    def others(self, part: Part, now: float) -> Iterator[tuple[str, Image]]:
        """Yield job id and image of the other images of a part."""
        if part.number is None:
            return
        for job_id, image in self._images.get(part.number, {}).items():
            if job_id != part.job_id and not self._is_over(image, now):
                yield job_id, image
