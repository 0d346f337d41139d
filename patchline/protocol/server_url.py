"""Urls of RabbitMQ, Redis, PostgreSQL and MQTT: nodes of a cluster, addresses. No error quotes a part of a url."""

from __future__ import annotations

import re
import urllib.parse
from typing import NamedTuple

from patchline.protocol.errors import SetupError

AMQP_PORTS = {"amqp": 5672, "amqps": 5671}
REDIS_PORTS = {"redis": 6379, "rediss": 6379, "unix": 0}  # unix: the path of a socket
MQTT_PORTS = {"mqtt": 1883, "mqtts": 8883}
POSTGRESQL_PORTS = {"postgresql": 5432}
_PORTS = AMQP_PORTS | REDIS_PORTS | MQTT_PORTS | POSTGRESQL_PORTS
_ENCODE = "in a user or password, write / as %2F, ? as %3F, # as %23, @ as %40, : as %3A and [ as %5B"


class Address(NamedTuple):
    """Where a server listens."""

    scheme: str
    host: str
    port: int


def nodes(url: str) -> list[str]:
    """Return the urls of the nodes of a cluster. A comma separates them; a comma in a password does not."""
    return re.split(r"\s*,\s*(?=[A-Za-z][A-Za-z0-9+.-]*://)", url.strip())


def address(node: str) -> Address:
    """Return the address in the url of one node.

    Raises:
        SetupError: the url cannot be used. Its text says why, without quoting: any part may belong to a password.
    """
    parts = _split(node)
    if parts.scheme not in _PORTS:
        raise SetupError(f"the url must begin with one of {', '.join(f'{scheme}://' for scheme in _PORTS)}")
    if "@" in parts.path + parts.query or parts.fragment:
        raise SetupError(f"the url has an @ or # after its host; {_ENCODE}")
    try:
        host, port = parts.hostname or "127.0.0.1", parts.port
    except ValueError:
        raise SetupError(f"the port in the url is not a number from 0 to 65535; {_ENCODE}") from None
    if "," in host:
        raise SetupError("the url of each node of a cluster needs its scheme, such as amqp://")
    return Address(parts.scheme, parts.path if parts.scheme == "unix" else host, port or _PORTS[parts.scheme])


def check(url: str) -> None:
    """Raise SetupError if the url of a server or cluster cannot be used. An empty url is accepted."""
    for node in nodes(url) if url else ():
        address(node)


def has_password(url: str) -> bool:
    """Return True if a url may contain a password, even if it cannot be parsed."""
    return any(re.search(r"//[^@]*:.*@|[?&]password=", node, re.IGNORECASE | re.DOTALL) for node in nodes(url))


def with_user(node: str, user: str, password: str) -> str:
    """Return the url of a node with another user. Raise SetupError if the url cannot be used."""
    address(node)
    parts = _split(node)
    host = parts.netloc.rpartition("@")[2]
    credentials = ":".join(urllib.parse.quote(word, safe="") for word in (user, password))
    return urllib.parse.urlunsplit(parts._replace(netloc=f"{credentials}@{host}"))


def of_mqtt(node: str) -> str:
    """Return the MQTT url of a node of RabbitMQ, at the usual port. Raise SetupError if the url cannot be used."""
    scheme, host, _ = address(node)
    scheme = "mqtts" if scheme == "amqps" else "mqtt"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{MQTT_PORTS[scheme]}"


def user(node: str) -> str | None:
    """Return the user in the url of a node. Raise SetupError if the url cannot be used."""
    address(node)
    encoded = _split(node).username
    return None if encoded is None else urllib.parse.unquote(encoded)


def password(node: str) -> str | None:
    """Return the password in the url of a node. Raise SetupError if the url cannot be used."""
    address(node)
    encoded = _split(node).password
    return None if encoded is None else urllib.parse.unquote(encoded)


def _split(node: str) -> urllib.parse.SplitResult:
    try:
        return urllib.parse.urlsplit(node.strip())
    except ValueError:  # its text quotes the url
        raise SetupError(f"the url is not of the form scheme://user:password@host:port/path; {_ENCODE}") from None
