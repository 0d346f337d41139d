"""OPC UA without a network: files of certificates, node ids, states."""

import datetime
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from patchline.plc import opcua_model, register_map, vision_states
from patchline.plc.opcua_security import OpcUaSecurity
from patchline.plc.register_map import Code, GateState
from patchline.plc.vision_states import ResultState
from patchline.protocol.errors import SetupError

KEY = rsa.generate_private_key(65537, 2048)
NAMES = (x509.UniformResourceIdentifier("urn:test"),)
DAY = datetime.timedelta(days=1)


def certificate(path, key=KEY, names=NAMES, days=1):
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - 3 * DAY).not_valid_after(now + days * DAY)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return path


def key_file(path, key=KEY, encryption=None):
    encryption = encryption or serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, encryption))
    return path


@pytest.fixture
def files(tmp_path):
    """Arguments of OpcUaSecurity that are right."""
    password = tmp_path / "password"
    password.write_text("secret\n")
    return {
        "cert_file": certificate(tmp_path / "own.pem"),
        "key_file": key_file(tmp_path / "own.key"),
        "peer_files": (certificate(tmp_path / "peer.pem"),),
        "user": "plc",
        "password_file": password,
    }


def der(path):
    return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(serialization.Encoding.DER)


def test_an_identity_has_what_the_files_contain_and_does_not_show_it(files):
    identity = OpcUaSecurity(**files).load()
    assert (identity.uri, identity.user, identity.password) == ("urn:test", "plc", "secret")
    assert repr(identity) == "OpcUaIdentity(urn:test)"


def test_a_certificate_is_trusted_alone_and_as_the_first_of_a_chain(files, tmp_path):
    identity = OpcUaSecurity(**files).load()
    peer, stranger = der(files["peer_files"][0]), der(certificate(tmp_path / "stranger.pem"))
    assert identity.trusted(peer) == identity.trusted(peer + stranger) == peer
    for untrusted in (None, b"", stranger, stranger + peer, peer[:-1]):
        assert identity.trusted(untrusted) is None


def test_a_certificate_that_has_expired_is_not_trusted(files, tmp_path):
    peer = certificate(tmp_path / "old.pem", days=-1)
    assert OpcUaSecurity(**files | {"peer_files": (peer,)}).load().trusted(der(peer)) is None


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda folder: {"peer_files": ()}, "nobody is trusted"),
        (lambda folder: {"password_file": None}, "user and password_file go together"),
        (lambda folder: {"user": None}, "user and password_file go together"),
        (lambda folder: {"password_file": folder / "missing"}, "missing, an OPC UA password: cannot be read"),
        (lambda folder: {"cert_file": folder / "missing"}, "missing: contains no usable certificate"),
        (lambda folder: {"cert_file": key_file(folder / "k")}, "k: contains no usable certificate"),
        (lambda folder: {"cert_file": certificate(folder / "c", names=())}, "names no URI"),
        (
            lambda folder: {
                "cert_file": certificate(folder / "c", names=(x509.IPAddress(ipaddress.ip_address("127.0.0.1")),))
            },
            "names no URI",
        ),
        (
            lambda folder: {"key_file": key_file(folder / "k", rsa.generate_private_key(65537, 2048))},
            "is not the private key of",
        ),
        (
            lambda folder: {"key_file": key_file(folder / "k", ec.generate_private_key(ec.SECP256R1()))},
            "no RSA key of 2048 to 4096 bits",
        ),
        (
            lambda folder: {"key_file": key_file(folder / "k", KEY, serialization.BestAvailableEncryption(b"x"))},
            "no usable unencrypted private key",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named(files, tmp_path, change, error):
    with pytest.raises(SetupError, match=error):
        OpcUaSecurity(**files | change(tmp_path)).load()


@pytest.mark.parametrize(
    ("version", "state", "expected"),
    [
        (0, 0, ("Preoperational", "Initialized")),
        (1, 0, ("Operational", "Initialized")),
        (1, GateState.READY, ("Operational", "Ready")),
        (1, GateState.READY | GateState.BUSY, ("Operational", "SingleExecution")),
        (1, GateState.READY | GateState.STOP_LINE, ("Operational", "Ready")),
        (1, GateState.READY | GateState.FAULT, ("Error", "Initialized")),
        (1, GateState.READY | GateState.BLIND, ("Error", "Initialized")),
    ],
)
def test_a_gate_that_is_blind_or_has_a_fault_is_in_error(version, state, expected):
    assert vision_states.states(version, state) == expected


def test_every_code_has_a_result_state_and_only_a_verdict_is_completed():
    completed = {code for code in Code if vision_states.result_state(code) == ResultState.COMPLETED}
    assert completed == {Code.PASS, Code.REVIEW, Code.FAIL}
    assert vision_states.result_state(999) == ResultState.UNDEFINED


def test_every_word_of_the_register_map_has_one_variable():
    layout = register_map.Layout(gate=0, plc=1000, slots=3)
    words, nodes = [], []
    for place in opcua_model.places(layout):
        for field, node in opcua_model.nodes_of(place, 2):
            first = place.first + place.record.offset(field.name)
            words += range(first, first + field.words)
            nodes.append(node)
    gate, plc = range(layout.gate_words), range(layout.plc, layout.plc + layout.plc_words)
    assert sorted(words) == [*gate, *plc]
    assert len(set(nodes)) == len(nodes)
