"""The sections of config.yaml: immutable, with strict types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import pydantic
from pydantic import Field

from patchline.config.base import Count, Endpoint, File, Pattern, Port, Positive, Section, Share, Url, is_bucket
from patchline.config.camera import Camera
from patchline.config.console import Console
from patchline.config.pictures import Pictures
from patchline.config.plc import Plc
from patchline.protocol import messages
from patchline.protocol.errors import SetupError
from patchline.protocol.tls import Certificates


class Broker(Section):
    """RabbitMQ. A comma in `url` separates the nodes of a cluster. If `url_file` is set, the file contains the url."""

    url: Url = "amqp://127.0.0.1:5672"
    url_file: File = None
    ca_file: File = None
    cert_file: File = None
    key_file: File = None
    make_queues: bool = True
    heartbeat_s: Count = 30
    confirm_timeout_s: Positive = 30.0
    reconnect_max_s: Positive = 5.0
    max_attempts: Count = 3
    jobs_max_length: Count = 5_000
    jobs_max_bytes: Count = 2_000_000_000
    verdicts_max_length: Count = 1_000_000
    ledger_max_length: Count = 4_000_000
    dead_max_length: Count = 10_000
    dead_max_bytes: Count = 2_000_000_000
    pictures_max_bytes: Count = 2_000_000_000
    mqtt_max_bytes: Count = 2_000_000_000

    @property
    def certificates(self) -> Certificates:
        """The files for amqps."""
        return Certificates(self.ca_file, self.cert_file, self.key_file)


class Redis(Section):
    """The cache of recent verdicts. An empty url disables it."""

    url: Url = "redis://127.0.0.1:6379/0"
    ca_file: File = None
    cert_file: File = None
    key_file: File = None
    timeout_s: Positive = 0.1
    keep_verdict_s: Count = 3600
    keep_recent: Count = 1000
    keep_picture_s: Count = 3600

    @property
    def certificates(self) -> Certificates:
        """The files for rediss."""
        return Certificates(self.ca_file, self.cert_file, self.key_file)


class Worker(Section):
    """The worker processes, one per device."""

    concurrency: Annotated[int, Field(ge=0)] = 0
    lanes: Annotated[int, Field(ge=0)] = 0
    hosts_per_chip: Annotated[int, Field(ge=1, le=32)] = 1
    pictures: Literal["none", "doubtful", "all"] = "doubtful"
    drain_s: Positive = 20.0
    start_s: Positive = 300.0
    stuck_s: Positive = 60.0
    restart_pause_s: Positive = 1.0
    restart_pause_max_s: Positive = 60.0
    metrics_host: str = "127.0.0.1"
    metrics_port: Port = 9100
    supervisor_port: Port = 9099


class Images(Section):
    """Limits that are checked before an image is decoded."""

    max_bytes: Count = 80_000_000
    max_pixels: Count = 70_000_000
    min_side_pixels: Count = 16


class BitDepth(NamedTuple):
    """The depth of a camera. `alignment` says where its bits are in 16: the lowest, or the highest.

    If `bits` is None, all bits of the file count: 8, or 16.
    """

    bits: int | None = None
    alignment: Literal["low", "high"] = "low"


class Publisher(Section):
    """Publishers: deadlines, confirmations, the spool and the watched folder."""

    deadline_ms: Count = 10_000
    confirm_timeout_s: Positive = 5.0
    window: Count = 16
    window_bytes: Count = 64_000_000
    late_per_s: Positive = 100.0
    spool_max_bytes: Count = 2_000_000_000
    spool_min_free_bytes: Count = 200_000_000
    spool_max_age_s: Positive = 86_400.0
    rest_ms: Count = 300
    incomplete_rest_ms: Count = 3_000
    list_ms: Count = 5_000
    poll_ms: Count = 1_000


class GateRules(Section):
    """When a gate accepts or rejects. `grace_ms` is added to the patience, since a verdict may be on its way."""

    review_action: Literal["accept", "reject"] = "reject"
    max_wait_ms: Count = 60_000
    grace_ms: Annotated[int, Field(ge=0)] = 200


class GateOverride(Section):
    """Rules of one line or category. A missing key has the value of the section `gate`."""

    review_action: Literal["accept", "reject"] | None = None
    max_wait_ms: Count | None = None
    grace_ms: Annotated[int, Field(ge=0)] | None = None


class Gate(GateRules):
    """Gates: their rules, the arm, and the lease that lets one gate of a line act."""

    remember_jobs: Count = 100_000
    act_timeout_ms: Count = 1000
    lease_ms: Annotated[int, Field(ge=1000)] = 2000
    heartbeat_s: Count = 2
    lines: dict[messages.Name, GateOverride] = Field(default_factory=dict)
    categories: dict[messages.Name, GateOverride] = Field(default_factory=dict)

    def rules(self, line: str, category: str) -> GateRules:
        """Return the rules of a category on a line. Those of a category prevail over those of a line."""
        values = self.model_dump(include=set(GateRules.model_fields))
        for override in (self.lines.get(line), self.categories.get(category)):
            values |= override.model_dump(exclude_none=True) if override else {}
        return GateRules(**values)


class Category(Section):
    """A product and its recipe. Sizes are in pixels. The thresholds are stored with the memory bank."""

    backbone: messages.FileName
    layer: str
    resize: Annotated[int, Field(ge=32, le=2048)]
    imagesize: Annotated[int, Field(ge=32, le=2048)]
    coreset_ratio: Annotated[float, Field(gt=0, le=1)] = 0.01
    score: Literal["topk10", "max"] = "topk10"
    false_reject_rate: Share = 0.01
    review_rate: Share = 0.05
    patch_rule: Literal["review", "fail", "none"] = "review"
    max_patches: Annotated[int, Field(ge=1000)] = 500_000
    clean_share: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    min_region_pixels: Count = 16
    precision: Literal["f32", "bf16", "f16"] | None = None
    golden_tolerance: Share = 0.02
    bit_depth: Literal[8, 10, 12, 14, 16] | None = None
    bit_alignment: Literal["low", "high"] = "low"
    reduced_jpeg: bool = True
    group_by: Pattern | None = None
    group_table: File = None
    near_duplicates: Literal["group", "ignore"] = "group"

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Category:
        if self.imagesize > self.resize:
            raise ValueError(f"imagesize {self.imagesize} is larger than resize {self.resize}")
        if self.review_rate < self.false_reject_rate:
            raise ValueError(
                f"review_rate {self.review_rate} is below false_reject_rate {self.false_reject_rate}: "
                "it is the share of good parts that are reviewed or rejected"
            )
        if self.group_by is not None and self.group_table is not None:
            raise ValueError("group_by and group_table are both set; keep one")
        if self.bit_alignment == "high" and self.bit_depth is None:
            raise ValueError("bit_alignment is high, but bit_depth is not set; set the depth of the camera")
        return self

    @property
    def depth(self) -> BitDepth:
        """The depth of the images."""
        return BitDepth(self.bit_depth, self.bit_alignment)


class Archive(Section):
    """The archive of verdicts. An empty url is a file of SQLite in `paths.archive`."""

    url: Url = ""
    batch: Annotated[int, Field(ge=1, le=10_000)] = 500
    batch_ms: Annotated[int, Field(ge=1, le=10_000)] = 200
    pictures: Pictures = Pictures()

    @pydantic.field_validator("url")
    @classmethod
    def _is_postgresql(cls, url: str) -> str:
        if url and not url.startswith("postgresql://"):
            raise ValueError("must begin with postgresql://, or be empty for a file of SQLite")
        return url


class Banks(Section):
    """Versions of memory banks in a store that all hosts share. Without a store, banks are in `paths.memory_banks`.

    The store is a folder, or the url of a bucket of S3, for which `endpoint` and `region` are.

    Attributes:
        new_categories_like: the category whose recipe those have that the configuration does not name. Workers serve
            them once a version of them is active. None: there are no such categories.
    """

    store: Path | str | None = None
    endpoint: Endpoint = None
    region: str = "us-east-1"
    poll_s: Annotated[float, Field(ge=0.1, le=60)] = 2.0
    new_categories_like: messages.Name | None = None

    @pydantic.field_validator("store", mode="plain")  # a union would take text from JSON, and not a folder
    @classmethod
    def _is_folder_or_bucket(cls, store: object) -> Path | str | None:
        if isinstance(store, str) and store and ":/" not in store:
            return Path(store)
        if store is None or isinstance(store, Path) or (isinstance(store, str) and is_bucket(store)):
            return store
        raise ValueError("must be a folder, s3://BUCKET or s3://BUCKET/FOLDER")


class Paths(Section):
    """Folders, relative to that of the configuration file."""

    models: Path = Field(default=Path("models"), strict=False)
    memory_banks: Path = Field(default=Path("faiss-index-precision"), strict=False)
    spool: Path = Field(default=Path("spool"), strict=False)
    gate: Path = Field(default=Path("gate-memory"), strict=False)
    archive: Path = Field(default=Path("archive"), strict=False)
    served_banks: Path = Field(default=Path("served-banks"), strict=False)


class Config(Section):
    """The whole configuration."""

    broker: Broker = Broker()
    redis: Redis = Redis()
    worker: Worker = Worker()
    images: Images = Images()
    publisher: Publisher = Publisher()
    gate: Gate = Gate()
    plc: Plc = Plc()
    camera: Camera = Camera()
    archive: Archive = Archive()
    banks: Banks = Banks()
    console: Console = Console()
    paths: Paths = Paths()
    categories: Annotated[dict[messages.Name, Category], Field(min_length=1)]

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.worker.stuck_s <= self.broker.confirm_timeout_s:
            raise ValueError(
                f"worker.stuck_s {self.worker.stuck_s} is not above broker.confirm_timeout_s "
                f"{self.broker.confirm_timeout_s}: a worker that waits for RabbitMQ would be restarted as stuck"
            )
        if 0 < self.worker.lanes < self.worker.concurrency:
            raise ValueError(
                f"worker.concurrency {self.worker.concurrency} is above worker.lanes {self.worker.lanes}: "
                "each image needs a lane"
            )
        for section, named in (("gate", self.gate.categories), ("plc", self.plc.categories)):
            unknown = named.keys() - self.categories.keys()
            if unknown:
                raise ValueError(f"{section}.categories names {min(unknown)!r}, which is not a category here")
        like = self.banks.new_categories_like
        if like is not None and like not in self.categories:
            raise ValueError(f"banks.new_categories_like names {like!r}, which is not a category here")
        if like is not None and self.banks.store is None:
            raise ValueError("banks.new_categories_like needs banks.store, where the banks of these categories are")
        return self

    def recipe(self, name: str) -> Category | None:
        """Return the recipe of a category; None if it is not configured, and no other recipe is its."""
        return self.categories.get(name) or self.categories.get(self.banks.new_categories_like or "")

    def category(self, name: str) -> Category:
        """Return the recipe of a category. Raise SetupError if it has none."""
        recipe = self.recipe(name)
        if recipe is None:
            known = ", ".join(self.categories)
            advice = "add it to the configuration, or set banks.new_categories_like there"
            raise SetupError(f"category {name!r} is not configured; known: {known}; {advice}")
        return recipe
