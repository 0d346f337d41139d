"""RabbitMQ's definitions file: the queues of a plant, and three users who may do what is theirs and no more."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from patchline.protocol.topology import Topology

_VHOST = "/"


@dataclass(frozen=True)
class Rights:
    """Regular expressions over the names of exchanges and queues. Nobody may make or delete anything."""

    write: str
    read: str


# To publish is to write to an exchange, to consume is to read a queue (RabbitMQ, access control).
# The process of the traces is a gate to RabbitMQ: it reads verdicts, and nothing else.
RIGHTS = {
    "publisher": Rights(write=r"^patchline\.(jobs|parts)$", read="^$"),
    "worker": Rights(write=r"^patchline\.(suspects|verdicts|dead)$", read=r"^patchline\.(jobs|suspects)$"),
    "gate": Rights(write="^$", read=r"^patchline\.(gate\..+|traces)$"),
}


def definitions(topologies: Sequence[Topology], passwords: Mapping[str, str]) -> dict[str, object]:
    """The document that RabbitMQ imports with `load_definitions` or `rabbitmqctl import_definitions`.

    Args:
        topologies: exchanges and queues; what stands in several is made once.
        passwords: by user, one for each of `RIGHTS`. The document holds their salted hashes.
    """
    exchanges = {name for each in topologies for name in each.exchanges}
    queues = {queue.name: queue for each in topologies for queue in each.queues}
    of_topic = {"vhost": _VHOST, "type": "topic", "durable": True, "auto_delete": False, "internal": False}
    of_queue = {"vhost": _VHOST, "durable": True, "auto_delete": False}
    to_queue = {"vhost": _VHOST, "destination_type": "queue", "arguments": {}}
    return {
        "vhosts": [{"name": _VHOST}],
        "users": [_user(name, passwords[name]) for name in RIGHTS],
        "permissions": [
            {"user": name, "vhost": _VHOST, "configure": "^$", "write": rights.write, "read": rights.read}
            for name, rights in RIGHTS.items()
        ],
        "exchanges": [{"name": name, "arguments": {}, **of_topic} for name in sorted(exchanges)],
        "queues": [{"name": each.name, "arguments": each.arguments, **of_queue} for each in queues.values()],
        "bindings": [
            {"source": exchange, "destination": each.name, "routing_key": pattern, **to_queue}
            for each in queues.values()
            for exchange, pattern in each.bindings
        ],
    }


def new_password() -> str:
    """192 random bits, in letters that need no quoting in a url."""
    return secrets.token_urlsafe(24)


def _user(name: str, password: str) -> dict[str, object]:
    """A user as RabbitMQ keeps it: base64 of a 4-byte salt and SHA-256 of salt and password (RabbitMQ, passwords)."""
    salt = secrets.token_bytes(4)
    digest = hashlib.sha256(salt + password.encode()).digest()
    hashed = base64.b64encode(salt + digest).decode()
    return {
        "name": name,
        "password_hash": hashed,
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        "tags": "",
    }
