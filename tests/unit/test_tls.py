import pytest
import trustme

from patchline.protocol.errors import SetupError
from patchline.protocol.tls import Certificates


@pytest.fixture
def files(tmp_path):
    """An authority, and the certificate of a client with its key."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    client = authority.issue_cert("client")
    client.cert_chain_pems[0].write_to_path(tmp_path / "client.pem")
    client.private_key_pem.write_to_path(tmp_path / "client.key")
    client.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    return tmp_path


@pytest.mark.parametrize(("cert", "key"), [("client.pem", "client.key"), ("both.pem", None)])
def test_a_certificate_and_its_key_are_in_two_files_or_in_one(files, cert, key):
    certificates = Certificates(files / "authority.pem", files / cert, key and files / key)
    certificates.check("broker", "amqps://one,amqps://two")


@pytest.mark.parametrize(
    ("names", "url", "message"),
    [
        ({"ca_file": "authority.pem"}, "redis://h", r"redis.ca_file is set, but .* redis://.*; write rediss://"),
        ({"ca_file": "authority.pem"}, "amqps://one,amqp://two", "begins with amqp://"),
        ({"cert_file": "both.pem"}, "amqp://user:hunter2@h", "cert_file is set"),
        ({"key_file": "client.key"}, "rediss://h", "key_file needs cert_file"),
        ({"ca_file": "client.key"}, "rediss://h", "client.key: contains no usable CA"),
        ({"ca_file": "missing.pem"}, "rediss://h", "missing.pem"),
        ({"cert_file": "client.pem"}, "rediss://h", "client.pem: no certificate with its unencrypted private key"),
        ({"cert_file": "client.pem", "key_file": "missing.key"}, "rediss://h", "missing.key"),
    ],
)
def test_files_that_cannot_be_used_are_refused_by_name(files, names, url, message):
    with pytest.raises(SetupError, match=message) as caught:
        Certificates(**{name: files / file for name, file in names.items()}).check("redis", url)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plain_url_without_files_is_accepted():
    Certificates().check("broker", "amqp://h")
