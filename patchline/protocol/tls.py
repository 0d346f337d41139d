"""TLS of a client: whom it trusts, and the certificate that it shows to a server that asks for one."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from patchline.protocol import server_url
from patchline.protocol.errors import SetupError

_ENCRYPTED = ("amqps", "rediss", "mqtts")


@dataclass(frozen=True)
class Certificates:
    """Files in PEM format.

    Attributes:
        ca_file: the CA certificates to trust. If None, those of the system.
        cert_file: the certificate of the client (mutual TLS). If None, it shows none.
        key_file: the private key. If None, `cert_file` contains it.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def check(self, section: str, url: str) -> None:
        """Check that the files can be used, and that the connections are encrypted if there are any.

        Args:
            section: of the configuration.
            url: of the server or cluster.

        Raises:
            SetupError: otherwise.
        """
        names = [name for name in ("ca_file", "cert_file", "key_file") if getattr(self, name) is not None]
        plain = {server_url.address(node).scheme for node in server_url.nodes(url)}.difference(_ENCRYPTED)
        if names and plain:
            scheme = min(plain)
            raise SetupError(
                f"{section}.{names[0]} is set, but the url begins with {scheme}://, which is not encrypted; "
                f"write {scheme}s://, or remove {' and '.join(names)}"
            )
        if self.key_file and not self.cert_file:
            raise SetupError(f"{section}.key_file needs cert_file: the certificate of this key")
        if names:
            self.context()

    def context(self) -> ssl.SSLContext:
        """Return a context that verifies the server and its host name.

        Raises:
            SetupError: a file cannot be used.
        """
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except OSError as error:
            raise SetupError(f"{self.ca_file}: contains no usable CA certificates ({error})") from error
        if self.cert_file is not None:
            try:
                context.load_cert_chain(self.cert_file, self.key_file, password=_refuse_password)
            except (OSError, ValueError) as error:
                files = " and ".join(str(file) for file in (self.cert_file, self.key_file) if file)
                text = f"{files}: no certificate with its unencrypted private key ({error})"
                raise SetupError(text) from error
        return context


def _refuse_password() -> str:
    """Called for an encrypted key; without it, OpenSSL would ask at the terminal."""
    raise ValueError("the key is encrypted")
