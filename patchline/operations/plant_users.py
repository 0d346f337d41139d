"""The definitions file of a plant's RabbitMQ, and a file with the url of each of its users."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from patchline.broker import definitions
from patchline.protocol.topology import Topology

FILE = "definitions.json"


def write(folder: Path, topologies: Sequence[Topology], address: str) -> list[Path]:
    """Write `definitions.json` and, for each user, a file with its url. Only their owner can read the files.

    A user whose file exists keeps its password, so that a line can be added later.

    Args:
        folder: is created if it does not exist.
        topologies: the exchanges and queues.
        address: the broker's url without a user; the nodes of a cluster joined by commas.

    Returns:
        The files.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    passwords = {
        user: _existing_password(folder / f"{user}.url") or definitions.new_password()
        for user in definitions.PERMISSIONS
    }
    document = json.dumps(definitions.definitions(topologies, passwords), indent=2) + "\n"
    files = {FILE: document}
    for user, password in passwords.items():
        files[f"{user}.url"] = ",".join(_with_user(url, user, password) for url in address.split(",")) + "\n"
    for name, content in files.items():
        _write(folder / name, content)
    return [folder / name for name in files]


def _existing_password(file: Path) -> str | None:
    return urlsplit(file.read_text(encoding="utf-8").split(",")[0]).password if file.exists() else None


def _with_user(url: str, user: str, password: str) -> str:
    parts = urlsplit(url.strip())
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{host}"))


def _write(file: Path, content: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as opened:
        opened.write(content)
    file.chmod(0o600)
