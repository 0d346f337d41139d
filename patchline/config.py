"""Loads config.yaml into frozen sections. Errors name the key and the line of the file. The only yaml user."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import pydantic
import yaml
from pydantic import AfterValidator, Field

from patchline.protocol import messages, secret_files, server_url
from patchline.protocol.errors import SetupError
from patchline.protocol.tls import Certificates


def _without_password(url: str) -> str:
    if server_url.has_password(url):
        raise ValueError("contains a password; set the url with an environment variable instead (see config.yaml)")
    try:
        server_url.check(url)
    except SetupError as error:
        raise ValueError(str(error)) from None
    return url


def _with_one_group(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    if groups != 1:
        raise ValueError(f"{pattern!r} must have one pair of parentheses around the name of the part, not {groups}")
    return pattern


PACKAGED = Path(__file__).parent / "packaged" / "config.yaml"  # comes with this package: the demo, and every default
_RENAMED: dict[tuple[str | int, ...], str] = {("worker", "at_once"): "concurrency"}  # keys of earlier builds
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
File = Annotated[Path | None, Field(strict=False)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Url = Annotated[str, AfterValidator(_without_password)]
Pattern = Annotated[str, AfterValidator(_with_one_group)]


class Section(messages.Frozen):
    """A part of the configuration: immutable, with strict types."""

    model_config = pydantic.ConfigDict(strict=True, allow_inf_nan=False)


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
    dead_max_length: Count = 10_000
    dead_max_bytes: Count = 2_000_000_000

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


class Paths(Section):
    """Folders, relative to that of the configuration file."""

    models: Path = Field(default=Path("models"), strict=False)
    memory_banks: Path = Field(default=Path("faiss-index-precision"), strict=False)
    spool: Path = Field(default=Path("spool"), strict=False)
    gate: Path = Field(default=Path("gate-memory"), strict=False)


class Config(Section):
    """The whole configuration."""

    broker: Broker = Broker()
    redis: Redis = Redis()
    worker: Worker = Worker()
    images: Images = Images()
    publisher: Publisher = Publisher()
    gate: Gate = Gate()
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
        unknown = self.gate.categories.keys() - self.categories.keys()
        if unknown:
            raise ValueError(f"gate.categories names {min(unknown)!r}, which is not a category of this configuration")
        return self

    def category(self, name: str) -> Category:
        """Return the recipe of a category. Raise SetupError if it is not configured."""
        if name not in self.categories:
            raise SetupError(f"category {name!r} is not configured; known: {', '.join(self.categories)}")
        return self.categories[name]


def load(path: Path) -> Config:
    """Load and validate a configuration file.

    PATCHLINE_AMQP_URL and PATCHLINE_REDIS_URL override the two urls; PATCHLINE_AMQP_URL_FILE and
    PATCHLINE_REDIS_URL_FILE name files that contain them.

    Raises:
        SetupError: one line per error: `file:line: key: message`.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        raw = yaml.constructor.SafeConstructor().construct_document(node) if node else None
    except OSError as error:
        raise SetupError(
            f"{path}: cannot be read ({error.strerror}); use --config to name a configuration file"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(node, yaml.MappingNode):
        raise SetupError(f"{path}:1: must contain sections such as 'categories:'")
    _refuse_repeated_keys(path, node)
    try:
        settings = Config.model_validate(raw)
    except pydantic.ValidationError as error:
        lines = [_format_error(path, node, item["loc"], item["msg"]) for item in error.errors(include_url=False)]
        raise SetupError("\n".join(lines)) from error
    settings = _resolve_paths(settings, path.resolve().parent)
    amqp, redis = map(secret_files.url_from_environment, ("PATCHLINE_AMQP_URL", "PATCHLINE_REDIS_URL"))
    settings = with_urls(settings, amqp, redis)
    return _with_url_of_file(settings, os.environ.get("PATCHLINE_AMQP_URL_FILE"))


def broker_url(settings: Broker) -> str:
    """Return the url of RabbitMQ, read from its file if it has one. Raise SetupError if the file cannot be read."""
    if settings.url_file is None:
        return settings.url
    url = secret_files.read(settings.url_file, "the url of RabbitMQ")
    server_url.check(url)
    return url


def save(settings: Config, path: Path) -> None:
    """Write a configuration file without the urls, which may contain passwords."""
    document = settings.model_dump(mode="json", exclude={"broker": {"url"}, "redis": {"url"}})
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def with_urls(settings: Config, amqp: str | None, redis: str | None) -> Config:
    """Return the configuration with other servers. None keeps a url."""
    broker = settings.broker if amqp is None else settings.broker.model_copy(update={"url": amqp, "url_file": None})
    cache = settings.redis if redis is None else settings.redis.model_copy(update={"url": redis})
    return settings.model_copy(update={"broker": broker, "redis": cache})


def _with_url_of_file(settings: Config, name: str | None) -> Config:
    file = settings.broker.url_file if name is None else Path(name).absolute()
    if file is None:
        return settings
    broker = settings.broker.model_copy(update={"url_file": file})
    return settings.model_copy(update={"broker": broker.model_copy(update={"url": broker_url(broker)})})


def _resolve_paths(settings: Config, folder: Path) -> Config:
    paths = {name: folder / value for name, value in settings.paths}
    broker = settings.broker.model_copy(update=_resolve_files(settings.broker, folder))
    redis = settings.redis.model_copy(update=_resolve_files(settings.redis, folder))
    broker = broker.model_copy(update={"url_file": settings.broker.url_file and folder / settings.broker.url_file})
    categories = {
        name: category.model_copy(update={"group_table": category.group_table and folder / category.group_table})
        for name, category in settings.categories.items()
    }
    update = {"paths": Paths(**paths), "broker": broker, "redis": redis, "categories": categories}
    return settings.model_copy(update=update)


def _resolve_files(section: Broker | Redis, folder: Path) -> dict[str, Path | None]:
    files = {"ca_file": section.ca_file, "cert_file": section.cert_file, "key_file": section.key_file}
    return {name: file and folder / file for name, file in files.items()}


def _format_error(path: Path, root: yaml.MappingNode, location: tuple[str | int, ...], text: str) -> str:
    text = text.removeprefix("Value error, ")
    if location in _RENAMED:
        text = f"is now called {_RENAMED[location]}; rename it"
    elif text == "Extra inputs are not permitted":
        text = f"is not a known setting; known here: {', '.join(_section(location).model_fields)}"
    return f"{path}:{_line_of(root, location)}: {'.'.join(map(str, location))}: {text}"


def _section(location: tuple[str | int, ...]) -> type[pydantic.BaseModel]:
    if len(location) == 1:
        return Config
    if location[0] == "gate" and len(location) > 2:
        return GateOverride
    section = Config.model_fields[str(location[0])].annotation
    return section if isinstance(section, type) and issubclass(section, Section) else Category


def _line_of(root: yaml.MappingNode, location: tuple[str | int, ...]) -> int:
    """Return the line of the deepest key of `location` that the file contains, or 1."""
    node: yaml.Node = root
    line = 1
    for part in location:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        match = next(((key, value) for key, value in pairs if str(key.value) == str(part)), None)
        if match is None:
            break
        line, node = match[0].start_mark.line + 1, match[1]
    return line


def _refuse_repeated_keys(path: Path, node: yaml.Node) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[Hashable] = set()
    for key, value in node.value:
        if key.value in seen:
            raise SetupError(f"{path}:{key.start_mark.line + 1}: {key.value}: duplicate key; keep one")
        seen.add(key.value)
        _refuse_repeated_keys(path, value)
