"""RabbitMQ's definitions file: the queues of a plant, and its users with minimal permissions."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType

from patchline.protocol.topology import MQTT_EXCHANGE, Topology

_VHOST = "/"


@dataclass(frozen=True)
class Permissions:
    """Regular expressions on the names of exchanges and queues.

    `configure`: what a user may create and delete. RabbitMQ names queues `amq.gen-...` that belong to one connection.
    """

    write: str
    read: str
    configure: str = "^$"


# Publishing needs write access to an exchange, consuming needs read access to a queue (RabbitMQ, access control).
# The trace exporter uses the gate's user: it only reads verdicts.
PERMISSIONS = {
    "publisher": Permissions(write=r"^patchline\.(jobs|backlog|parts|status)$", read="^$"),
    "worker": Permissions(
        write=r"^(patchline\.(jobs|backlog|suspects|verdicts|pictures|dead|status|banks|shadows)|amq\.gen-.*)$",
        read=r"^(patchline\.(jobs|backlog|suspects)(\..+)?|patchline\.(banks|status)|amq\.gen-.*)$",
        configure=r"^amq\.gen-.*$",
    ),
    "archive": Permissions(write=r"^patchline\.status$", read=r"^patchline\.(verdicts|ledger|pictures)$"),
    "judge": Permissions(write=r"^patchline\.judgements$", read="^$"),
    "console": Permissions(
        write=r"^(patchline\.(judgements|banks)|amq\.gen-.*)$",
        read=r"^(patchline\.status|amq\.gen-.*)$",
        configure=r"^amq\.gen-.*$",
    ),
    "gate": Permissions(write=r"^patchline\.(acts|lease|status)$", read=r"^patchline\.(gate\..+|lease\..+|traces)$"),
}
# Only if there are devices: the process that forwards what they send, and a device. The devices of a line are one user.
_FORWARDER = Permissions(
    write=r"^(patchline\.(jobs|backlog|parts|status|dead)|amq\.topic)$", read=r"^patchline\.mqtt\..+$"
)
_DEVICE = Permissions(write=r"^amq\.topic$", read="^$")


def users(devices: Mapping[str, str]) -> dict[str, Permissions]:
    """Return the users of a plant.

    Args:
        devices: for each user of devices, the pattern of the routing keys that it may use.
    """
    if not devices:
        return PERMISSIONS
    return PERMISSIONS | {"camera": _FORWARDER} | dict.fromkeys(devices, _DEVICE)


def definitions(
    topologies: Sequence[Topology], passwords: Mapping[str, str], devices: Mapping[str, str] = MappingProxyType({})
) -> dict[str, object]:
    """Return the document for `load_definitions` or `rabbitmqctl import_definitions`.

    Args:
        topologies: exchanges and queues, which may overlap.
        passwords: one for each user. The document contains their salted hashes.
        devices: as for `users`.
    """
    exchanges = {name for topology in topologies for name in topology.exchanges}
    queues = {queue.name: queue for topology in topologies for queue in topology.queues}
    exchange_options = {"vhost": _VHOST, "type": "topic", "durable": True, "auto_delete": False, "internal": False}
    queue_options = {"vhost": _VHOST, "durable": True, "auto_delete": False}
    binding_options = {"vhost": _VHOST, "destination_type": "queue", "arguments": {}}
    return {
        "vhosts": [{"name": _VHOST}],
        "users": [_user(name, passwords[name]) for name in users(devices)],
        "permissions": [
            {"user": name, "vhost": _VHOST, **asdict(permissions)} for name, permissions in users(devices).items()
        ],
        "topic_permissions": [
            {"user": name, "vhost": _VHOST, "exchange": MQTT_EXCHANGE, "write": pattern, "read": "^$"}
            for name, pattern in devices.items()
        ],
        "exchanges": [{"name": name, "arguments": {}, **exchange_options} for name in sorted(exchanges)],
        "queues": [{"name": queue.name, "arguments": queue.arguments, **queue_options} for queue in queues.values()],
        "bindings": [
            {"source": exchange, "destination": queue.name, "routing_key": pattern, **binding_options}
            for queue in queues.values()
            for exchange, pattern in queue.bindings
        ],
    }


def new_password() -> str:
    """Return a URL-safe password of 192 random bits."""
    return secrets.token_urlsafe(24)


def _user(name: str, password: str) -> dict[str, object]:
    """Return a user with a hashed password: base64(salt + SHA-256(salt + password)), as RabbitMQ specifies."""
    salt = secrets.token_bytes(4)
    digest = hashlib.sha256(salt + password.encode()).digest()
    return {
        "name": name,
        "password_hash": base64.b64encode(salt + digest).decode(),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": "",
    }
