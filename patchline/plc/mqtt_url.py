"""The url of a plant's MQTT broker."""

from __future__ import annotations

from patchline.protocol import secret_files, server_url
from patchline.protocol.errors import SetupError

_VARIABLE = "PATCHLINE_MQTT_URL"


def find(address: str) -> str:
    """Return the url of a broker. `mqtt:` without a host is that of PATCHLINE_MQTT_URL, or of the file of its _FILE.

    Raises:
        SetupError: no broker is named, the url is not valid, or it has a password that every list of processes shows.
    """
    given = secret_files.url_from_environment(_VARIABLE)
    url = address if address != "mqtt:" else given or ""
    if not url:
        raise SetupError(f"mqtt: names no broker; write mqtt://HOST, or set {_VARIABLE} or its _FILE")
    if url == address and server_url.has_password(url):
        raise SetupError(f"the url of the MQTT broker contains a password, which others can see; use {_VARIABLE}")
    server_url.check(url)
    return url
