"""The lines of a plant's folder, from the files that `patchline init` writes for systemd's publishers and gates."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from patchline import config
from patchline.protocol.errors import SetupError

_PUBLISHER_PORT, _GATE_PORT = 9110, 9120


@dataclass(frozen=True)
class WatchedLine:
    """A line whose pictures come into a folder.

    Attributes:
        publisher_port: of the metrics of its publisher, if it is free.
        gate_port: the same for its gate.
    """

    name: str
    category: str
    folder: Path
    publisher_port: int
    gate_port: int


def of_plant(folder: Path, settings: config.Config) -> list[WatchedLine]:
    """Return the lines with a file `publisher-LINE.env`, by name.

    Raises:
        SetupError: a file lacks a value, or names a category that is not configured or a folder that is not there.
    """
    return [_line(file, settings) for file in sorted(folder.glob("publisher-*.env"))]


def _line(file: Path, settings: config.Config) -> WatchedLine:
    values = _values(file)
    name = file.stem.removeprefix("publisher-")
    try:
        category, watched = values["CATEGORY"], file.parent / values["FOLDER"]
    except KeyError as error:
        raise SetupError(f"{file}: has no line {error.args[0]}=; write it, or move the file away") from None
    settings.category(category)
    if not watched.is_dir():
        raise SetupError(f"{file}: FOLDER={watched} is no folder; make it, or name another one")
    gate = _values(file.with_name(f"gate-{name}.env"))
    publisher_port = _port(values.get("METRICS_PORT"), _PUBLISHER_PORT)
    return WatchedLine(name, category, watched, publisher_port, _port(gate.get("METRICS_PORT"), _GATE_PORT))


def _values(file: Path) -> dict[str, str]:
    """The variables of a file as systemd's EnvironmentFile has them: one a line, `#` begins a comment."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeError) as error:
        raise SetupError(f"{file}: cannot be read ({error})") from error
    found = re.findall(r"(?m)^\s*([A-Z_]+)=(.*?)\s*$", text)
    return {name: value.strip("\"'") for name, value in found}


def _port(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isdecimal() else default
