"""Options that several subcommands share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from patchline import config
from patchline.protocol import messages
from patchline.protocol.errors import SetupError


def names(value: str | list[str] | None) -> str | list[str] | None:
    """Refuse names of lines and categories that cannot be part of a file name and of a routing key."""
    for name in [value] if isinstance(value, str) else value or []:
        if re.fullmatch(messages.NAME_PATTERN, name) is None:
            raise typer.BadParameter(f"{name!r} is not letters, digits, _ and -, 63 at most")
    return value


def port(purpose: str) -> Any:
    """Return the option of a port."""
    return typer.Option(metavar="PORT", min=0, max=65_535, help=purpose)


Settings = Annotated[Path, typer.Option("--config", metavar="FILE", help="The configuration file.", show_default=True)]
Line = Annotated[
    str, typer.Option("--line", metavar="NAME", callback=names, help="The production line, such as press-3.")
]
Category = Annotated[
    str, typer.Option("--category", metavar="NAME", callback=names, help="The parts' category in the configuration.")
]
Several = Annotated[
    list[str] | None, typer.Option("--category", metavar="NAME", callback=names, help="A category; again for more.")
]
NewCategory = Annotated[
    bool, typer.Option("--new-category", help="Neither the configuration nor the store has this category yet.")
]
All = Annotated[bool, typer.Option("--all", help="Every category of the configuration.")]
Dataset = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="With a folder in MVTec layout for each category.")
]
Serving = Annotated[str, typer.Option("--device", metavar="DEVICE", help="The device that serves: cpu, ascend:0, ...")]
CONFIG = Path("config.yaml")


def chosen(settings: config.Config, names: list[str] | None, all_: bool) -> list[str]:
    """The named categories, or all. Raises SetupError where both or neither is said."""
    if bool(names) == all_:
        raise SetupError("name categories with --category, or all of them with --all")
    return names or list(settings.categories)
