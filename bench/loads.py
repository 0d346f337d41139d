"""The images that two builds judge: `bench.against`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from bench import large_pictures, plant
from bench.plant import DEFAULT, DEFAULT_BF16, WIDE, WIDE8
from bench.rows import JPEG, PNG
from patchline.broker.base import Broker, Message
from patchline.protocol import messages, topology
from patchline.runtime import connections


@dataclass(frozen=True)
class Load:
    """Images of one kind for a category.

    Attributes:
        is_paced: images come 36 a second as well, for their latency.
        has_limit: the network alone is measured as well.
        other_category: of the other build, if it judges these images by another one.
    """

    name: str
    category: str
    content_type: str
    images: Sequence[bytes]
    is_paced: bool = False
    has_limit: bool = False
    other_category: str | None = None

    def of_other(self) -> Load:
        """Return the load of the other build."""
        return replace(self, category=self.other_category or self.category)

    def send(self, broker: Broker, numbers: Sequence[int]) -> None:
        """Publish images as jobs that are captured now. The number of an image is the id of its job."""
        for number in numbers:
            headers: dict[str, str | int] = {"line": "bench", "part_id": f"p{number}", "category": self.category}
            headers["captured_at"] = connections.now_ms()
            image = self.images[number % len(self.images)]
            job = Message(image, f"{number}", messages.JOB_TYPE, self.content_type, headers)
            broker.publish(topology.JOBS, f"bench.{self.category}", job)


def loads() -> Iterator[Load]:
    """Return all loads of the benchmark."""
    yield Load("default, JPEG", DEFAULT, JPEG, plant.pictures(900, JPEG), is_paced=True, has_limit=True)
    yield Load(
        "default in bf16 against f32, JPEG",
        DEFAULT_BF16,
        JPEG,
        plant.pictures(900, JPEG),
        has_limit=True,
        other_category=DEFAULT,
    )
    yield Load("default, PNG", DEFAULT, PNG, plant.pictures(900, PNG))
    yield Load("wide, JPEG", WIDE, JPEG, plant.pictures(400, JPEG), has_limit=True)
    yield Load("wide-int8, JPEG", WIDE8, JPEG, plant.pictures(500, JPEG), has_limit=True)
    yield Load("default, grey JPEG of 20 megapixels", DEFAULT, JPEG, [large_pictures.picture(20, "JPEG", "grey")] * 60)
