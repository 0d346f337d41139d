"""Words in a PLC that speaks EtherNet/IP. The PLC is cpppo's server, whose code shares nothing with ours."""

import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from patchline.plc.ethernet_ip import EthernetIpWords
from patchline.plc.words import MAX_WORDS, PlcError
from patchline.protocol.errors import SetupError
from patchline.services.server import HOST, free_ports, is_listening

pytestmark = pytest.mark.timeout(180)
PATIENCE_S = 30.0  # of calls that are to succeed, on a busy machine


class EnipPlc:
    """cpppo's server, a process of its own."""

    def __init__(self):
        (self.port,) = free_ports(1)
        self.process = None
        self.start()

    def start(self):
        tags = ["WORDS=INT[2000]", "NUMBERS=DINT[10]"]
        command = [sys.executable, "-m", "cpppo.server.enip", "--no-config", "--no-udp", "-a", f"{HOST}:{self.port}"]
        self.process = subprocess.Popen([*command, *tags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not is_listening(self.port):
            assert self.process.poll() is None
            time.sleep(0.1)

    def freeze(self):
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def client(self, *operations):
        """Run cpppo's client. Return what it prints."""
        command = [sys.executable, "-m", "cpppo.server.enip.client", "--print", "-t", "60", "-a", f"{HOST}:{self.port}"]
        result = subprocess.run([*command, *operations], capture_output=True, text=True, timeout=90)
        assert result.returncode == 0, result.stderr
        return result.stdout


@pytest.fixture
def plc():
    plc = EnipPlc()
    yield plc
    plc.kill()


@pytest.fixture
def connect(plc):
    opened = []

    def connect(tag="WORDS", timeout_s=PATIENCE_S, **options):
        opened.append(EthernetIpWords(HOST, tag, plc.port, timeout_s=timeout_s, **options))
        return opened[-1]

    yield connect
    for words in opened:
        words.close()


def call_until_it_succeeds(call):
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call()
        except PlcError:
            assert time.monotonic() < deadline


def test_another_client_sees_the_words_of_a_write_as_the_signed_integers_of_the_tag(plc, connect):
    connect().write(5, [1, 32_767, 32_768, 65_535])
    assert "[1, 32767, -32768, -1]" in plc.client("WORDS[5-8]")


def test_words_that_another_client_writes_are_read_without_a_sign(plc, connect):
    plc.client("WORDS[5-8]=(INT)1,32767,-32768,-1")
    assert connect().read(5, 4) == (1, 32_767, 32_768, 65_535)


def test_a_plc_without_a_route_is_reached(connect):
    words = connect(route="")
    words.write(0, [7])
    assert words.read(0, 1) == (7,)


@pytest.mark.parametrize(
    ("tag", "start", "message"),
    [
        ("WORDS", 1_999, "refuses: .*beyond end"),
        ("NUMBERS", 0, "not sent 2 values of type INT"),
        ("NOTHING", 0, "refuses: status 0x08 of EtherNet/IP; is there such a tag"),
    ],
)
def test_words_that_the_plc_does_not_have_are_an_error_that_names_them(connect, tag, start, message):
    with pytest.raises(PlcError, match=rf"{tag}\[{start}\]: .*{message}"):
        connect(tag).read(start, 2)


def test_after_a_refusal_the_next_call_succeeds(connect):
    words = connect()
    with pytest.raises(PlcError):
        words.write(1_999, [1, 2])
    words.write(1_998, [1, 2])
    assert words.read(1_998, 2) == (1, 2)


@pytest.mark.parametrize(("host", "route"), [("no.such.host.invalid", "1/0"), (HOST, "1"), (HOST, "1/slot")])
def test_an_address_or_route_that_cannot_be_is_an_error_of_the_setup(host, route):
    with pytest.raises(SetupError):
        EthernetIpWords(host, "WORDS", route=route)


def test_a_frozen_plc_is_an_error_after_the_time_limit_and_the_next_call_after_it_thaws_succeeds(plc, connect):
    words = connect(timeout_s=0.2)
    call_until_it_succeeds(lambda: words.write(0, [1]))
    plc.freeze()
    try:
        with pytest.raises(PlcError, match=r"has not answered within 0.2 s"):
            words.write(0, [2])
        with pytest.raises(PlcError, match=r"has not answered within 0.2 s"):
            words.read(0, 1)
    finally:
        plc.thaw()
    call_until_it_succeeds(lambda: words.write(0, [3]))
    assert connect().read(0, 1) == (3,)


@contextmanager
def answering(answer):
    """A server that calls `answer` with each connection after its first request."""
    with socket.create_server((HOST, 0)) as listener:

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    answer(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def drip(connection):
    """Begin an answer of 100 bytes, and send one byte after the other."""
    connection.sendall(b"\x65\x00\x64\x00" + bytes(20))
    for _ in range(100):
        time.sleep(0.1)
        try:
            connection.sendall(b"\x00")
        except OSError:
            return


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (drip, "has not answered within 1 s"),
        (lambda connection: connection.sendall(b"\x65\x00\x64\x00" + bytes(20)), "has closed the connection"),
        (lambda connection: connection.sendall(b"\x65\x00\xff\xff" + bytes(20)), "its answer has 65535 bytes"),
        (lambda connection: connection.sendall(b"\x65\x00\x04\x00" + bytes(4) + b"\x01" + bytes(19)), "no session"),
    ],
    ids=["drips", "ends within an answer", "too long", "refused"],
)
def test_an_answer_that_does_not_end_costs_no_more_than_the_time_limit(answer, message):
    with answering(answer) as port, pytest.raises(PlcError, match=message):
        EthernetIpWords(HOST, "WORDS", port, timeout_s=1.0).read(0, MAX_WORDS)
