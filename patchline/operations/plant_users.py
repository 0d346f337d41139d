"""The definitions file of a plant's RabbitMQ, and a file with the url of each of its users."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from patchline.broker import definitions
from patchline.protocol import server_url
from patchline.protocol.errors import SetupError
from patchline.protocol.topology import Topology

FILE = "definitions.json"


def write(
    folder: Path,
    topologies: Sequence[Topology],
    address: str,
    devices: Mapping[str, str] = MappingProxyType({}),
) -> list[Path]:
    """Write `definitions.json` and, for each user, a file with its url. Only their owner can read the files.

    A user whose file exists keeps its password, so that a line can be added later.

    Args:
        folder: is created if it does not exist.
        topologies: the exchanges and queues.
        address: the broker's url without a user; the nodes of a cluster joined by commas.
        devices: users that publish by MQTT, with their routing keys: see `definitions.users`. Their urls are of MQTT,
            with the usual port of it.

    Returns:
        The files.

    Raises:
        SetupError: the address or the url in a file cannot be used.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    passwords = {
        user: _existing_password(folder / f"{user}.url") or definitions.new_password()
        for user in definitions.users(devices)
    }
    document = json.dumps(definitions.definitions(topologies, passwords, devices), indent=2) + "\n"
    files = {FILE: document}
    for user, password in passwords.items():
        nodes = server_url.nodes(address)
        nodes = list(map(server_url.of_mqtt, nodes)) if user in devices else nodes
        files[f"{user}.url"] = ",".join(server_url.with_user(node, user, password) for node in nodes) + "\n"
    for name, content in files.items():
        _write(folder / name, content)
    return [folder / name for name in files]


def _existing_password(file: Path) -> str | None:
    if not file.exists():
        return None
    try:
        return server_url.password(server_url.nodes(file.read_text(encoding="utf-8"))[0])
    except SetupError as error:
        raise SetupError(f"{file}: {error}; mend it, or delete it to give this user a new password") from None


def _write(file: Path, content: str) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as opened:
        opened.write(content)
    file.chmod(0o600)
