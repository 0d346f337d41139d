"""Certificates, user and password of an OPC UA client or server, from files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from patchline.protocol import secret_files
from patchline.protocol.errors import SetupError

_KEY_BITS = range(2048, 4097)  # what the policy Basic256Sha256 allows


@dataclass(frozen=True)
class OpcUaSecurity:
    """Files for the security policy Basic256Sha256, mode SignAndEncrypt.

    Attributes:
        cert_file: our certificate, PEM or DER. It names our application's URI as a subject alternative name.
        key_file: its private key, PEM, not encrypted.
        peer_files: the certificates to trust, PEM or DER: that of the server, or those of all clients.
        user: name of the user. If None, the certificate is enough.
        password_file: a file with the password of the user.
    """

    cert_file: Path
    key_file: Path
    peer_files: tuple[Path, ...]
    user: str | None = None
    password_file: Path | None = None

    def load(self) -> OpcUaIdentity:
        """Return the contents of the files.

        Raises:
            SetupError: a file cannot be used, or one is missing.
        """
        if not self.peer_files:
            raise SetupError("OPC UA: peer_files is empty, so nobody is trusted; name the other side's certificate")
        if (self.user is None) != (self.password_file is None):
            raise SetupError("OPC UA: user and password_file go together; set both or none")
        certificate = _certificate(self.cert_file)
        peers = tuple(_certificate(path) for path in self.peer_files)
        password = None if self.password_file is None else secret_files.read(self.password_file, "an OPC UA password")
        return OpcUaIdentity(
            uri=_application_uri(certificate, self.cert_file),
            certificate=_der(certificate),
            key=_key(self.key_file, certificate, self.cert_file),
            peers=tuple((_der(peer), peer.not_valid_after_utc) for peer in peers),
            user=self.user,
            password=password,
        )


@dataclass(frozen=True)
class OpcUaIdentity:
    """What the files contain.

    Attributes:
        uri: of our application.
        certificate: ours, DER.
        key: its private key, PEM.
        peers: trusted certificates, DER, and when each ends.
        user: name of the user, or None.
        password: of the user, or None.
    """

    uri: str
    certificate: bytes
    key: bytes
    peers: tuple[tuple[bytes, datetime], ...]
    user: str | None
    password: str | None

    def __repr__(self) -> str:
        return f"OpcUaIdentity({self.uri})"  # no key and no password

    def trusted(self, certificate: bytes | None) -> bytes | None:
        """Return a certificate, or the first one of a chain, if it is trusted and has not expired."""
        now = datetime.now(UTC)
        matches = (peer for peer, end in self.peers if (certificate or b"").startswith(peer) and now <= end)
        return next(matches, None)


def _certificate(path: Path) -> x509.Certificate:
    try:
        content = path.read_bytes()
        pem = content.lstrip().startswith(b"-----")
        return x509.load_pem_x509_certificate(content) if pem else x509.load_der_x509_certificate(content)
    except (OSError, ValueError) as error:
        raise SetupError(f"{path}: contains no usable certificate ({error})") from error


def _key(path: Path, certificate: x509.Certificate, cert_file: Path) -> bytes:
    try:
        content = path.read_bytes()
        key = serialization.load_pem_private_key(content, password=None)
    except (OSError, ValueError, TypeError) as error:
        raise SetupError(f"{path}: contains no usable unencrypted private key in PEM ({error})") from error
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size not in _KEY_BITS:
        raise SetupError(f"{path}: is no RSA key of 2048 to 4096 bits")
    if key.public_key() != certificate.public_key():
        raise SetupError(f"{path}: is not the private key of {cert_file}")
    return content


def _application_uri(certificate: x509.Certificate, path: Path) -> str:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.UniformResourceIdentifier)[0]
    except (x509.ExtensionNotFound, IndexError) as error:
        raise SetupError(f"{path}: names no URI as a subject alternative name, which OPC UA requires") from error


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)
