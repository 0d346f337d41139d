"""Loads config.yaml into its sections. Errors name the key and the line of the file. The only yaml user."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import get_args

import pydantic
import yaml

from patchline.config.base import Section
from patchline.config.camera import Camera, CameraRules
from patchline.config.plc import Plc, PlcRules
from patchline.config.sections import Archive, Broker, Config, Paths, Redis
from patchline.protocol import secret_files, server_url
from patchline.protocol.errors import SetupError

PACKAGED = Path(__file__).parents[1] / "packaged" / "config.yaml"  # the demo, and every default
_RENAMED: dict[tuple[str | int, ...], str] = {("worker", "at_once"): "concurrency"}  # keys of earlier builds
_OF_A_LINE: dict[type[Section], type[Section]] = {Plc: PlcRules, Camera: CameraRules}  # what `lines` may set

# The key with which a rule about several keys begins, such as `worker.stuck_s 3 is not above` or `lines.press-3: `.
_KEY_IN_TEXT = re.compile(r"([a-z_]+(?:\.[\w-]+)+):? (.+)")


def load(path: Path) -> Config:
    """Load and validate a configuration file.

    PATCHLINE_AMQP_URL, PATCHLINE_REDIS_URL and PATCHLINE_ARCHIVE_URL override the urls; the variables with the suffix
    _FILE name files that contain them.

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
    settings = _with_archive_url(with_urls(settings, amqp, redis))
    return _with_url_of_file(settings, os.environ.get("PATCHLINE_AMQP_URL_FILE"))


def broker_url(settings: Broker) -> str:
    """Return the url of RabbitMQ, read from its file if it has one. Raise SetupError if the file cannot be read."""
    if settings.url_file is None:
        return settings.url
    url = secret_files.read(settings.url_file, "the url of RabbitMQ")
    server_url.check(url)
    return url


def archive_url(settings: Archive) -> str:
    """Return the url of the archive, read again from its variable or file. Raise SetupError if it cannot be used."""
    url = secret_files.url_from_environment("PATCHLINE_ARCHIVE_URL")
    if url and not url.startswith("postgresql://"):
        raise SetupError("PATCHLINE_ARCHIVE_URL: must begin with postgresql://, or be empty for a file of SQLite")
    return settings.url if url is None else url


def save(settings: Config, path: Path) -> None:
    """Write a configuration file without the urls, which may contain passwords."""
    secret = {"broker": {"url"}, "redis": {"url"}, "archive": {"url"}}
    document = settings.model_dump(mode="json", exclude=secret)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def with_urls(settings: Config, amqp: str | None, redis: str | None) -> Config:
    """Return the configuration with other servers. None keeps a url."""
    broker = settings.broker if amqp is None else settings.broker.model_copy(update={"url": amqp, "url_file": None})
    cache = settings.redis if redis is None else settings.redis.model_copy(update={"url": redis})
    return settings.model_copy(update={"broker": broker, "redis": cache})


def _with_archive_url(settings: Config) -> Config:
    update = {"url": archive_url(settings.archive)}
    return settings.model_copy(update={"archive": settings.archive.model_copy(update=update)})


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
    banks = settings.banks
    if isinstance(banks.store, Path):
        banks = banks.model_copy(update={"store": folder / banks.store})
    update = {
        "paths": Paths(**paths),
        "banks": banks,
        "broker": broker,
        "redis": redis,
        "categories": categories,
        "console": settings.console.below(folder),
        "plc": settings.plc.below(folder),
    }
    return settings.model_copy(update=update)


def _resolve_files(section: Broker | Redis, folder: Path) -> dict[str, Path | None]:
    files = {"ca_file": section.ca_file, "cert_file": section.cert_file, "key_file": section.key_file}
    return {name: file and folder / file for name, file in files.items()}


def _format_error(path: Path, root: yaml.MappingNode, location: tuple[str | int, ...], text: str) -> str:
    text = text.removeprefix("Value error, ")
    location = tuple(key for key in location if key != "[key]")  # pydantic's mark of a key that is wrong itself
    named = _KEY_IN_TEXT.match(text)
    if named:
        location, text = (*location, *named[1].split(".")), named[2]
    if location in _RENAMED:
        text = f"is now called {_RENAMED[location]}; rename it"
    elif text == "Extra inputs are not permitted":
        text = f"is not a known setting; known here: {', '.join(_section(location).model_fields)}"
    return f"{path}:{_line_of(root, location)}: {'.'.join(map(str, location))}: {text}"


def _section(location: tuple[str | int, ...]) -> type[Section]:
    """Return the section in which the last key of a location stands."""
    section: type[Section] = Config
    for key in location[:-1]:
        if key == "lines" and section in _OF_A_LINE:
            section = _OF_A_LINE[section]
        elif key in section.model_fields:  # else it is the name of a line or category
            section = _section_in(section.model_fields[str(key)].annotation) or section
    return section


def _section_in(annotation: object) -> type[Section] | None:
    """Return the section that a field holds, also as the values of a dictionary; None if it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


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
