"""The Modbus server that a PLC polls: what it answers, also to a client of another stack."""

import contextlib
import socket
import struct
import subprocess
import threading

import pytest

from patchline.plc.modbus_client import ModbusClient
from patchline.plc.modbus_server import MAX_CONNECTIONS, ModbusServer
from patchline.plc.words import MAX_WORDS, PlcError
from tests.plc_servers import TIMEOUT_S, compiled

LIMIT_S = 30
PLC_WORDS = range(100)  # what the PLC may write; the gate's words follow
SIZE = 500
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS, ILLEGAL_VALUE = 1, 2, 3


@pytest.fixture
def gate():
    with contextlib.closing(ModbusServer("127.0.0.1", 0, SIZE, PLC_WORDS)) as memory:
        yield memory


@pytest.fixture
def plc(gate):
    """A connection to the gate's server."""
    with socket.create_connection(("127.0.0.1", gate.port), timeout=LIMIT_S) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def frame(request, transaction=1, unit=1):
    return struct.pack(">HHHB", transaction, 0, len(request) + 1, unit) + request


def write_words(start, *words):
    return struct.pack(f">BHHB{len(words)}H", 16, start, len(words), 2 * len(words), *words)


def read_words(start, count, function=3):
    return struct.pack(">BHH", function, start, count)


def receive(connection):
    """The next response, with its transaction and unit."""
    transaction, protocol, length, unit = struct.unpack(">HHHB", _exactly(connection, 7))
    assert protocol == 0
    return transaction, unit, _exactly(connection, length - 1)


def _exactly(connection, size):
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        assert chunk, "the server closed the connection"
        data += chunk
    return data


def ask(connection, request):
    connection.sendall(frame(request))
    return receive(connection)[2]


def refusal(request, code):
    return bytes([request[0] | 0x80, code])


def test_all_requests_that_arrive_together_are_answered_in_order(gate, plc):
    plc.sendall(b"".join(frame(write_words(number, 100 + number), number, unit=7) for number in range(1, 60)))
    for number in range(1, 60):
        assert receive(plc) == (number, 7, struct.pack(">BHH", 16, number, 1))
    assert gate.read(1, 59) == tuple(range(101, 160))


def test_requests_that_are_sent_before_the_last_answer_was_read_are_answered_too(gate, plc):
    for number in range(1, 60):
        plc.sendall(frame(write_words(number, number), number))
    assert [receive(plc)[0] for _ in range(1, 60)] == list(range(1, 60))
    assert gate.read(1, 59) == tuple(range(1, 60))


def test_a_request_that_arrives_byte_by_byte_is_answered(gate, plc):
    gate.write(5, (1, 2, 3))
    for byte in frame(read_words(5, 3)):
        plc.sendall(bytes([byte]))
    assert receive(plc)[2] == bytes([3, 6, 0, 1, 0, 2, 0, 3])


def test_input_registers_are_the_same_words(gate, plc):
    gate.write(SIZE - 1, (515,))
    assert ask(plc, read_words(SIZE - 1, 1, function=4)) == bytes([4, 2, 2, 3])


@pytest.mark.parametrize(
    "request_of_plc",
    [
        write_words(PLC_WORDS.stop, 1),
        write_words(PLC_WORDS.stop - 1, 1, 2),
        struct.pack(">BHH", 6, PLC_WORDS.stop, 1),
        struct.pack(">BHHHHBH", 23, 0, 1, PLC_WORDS.stop, 1, 2, 1),
        struct.pack(">BHHHHBH", 23, SIZE, 1, 0, 1, 2, 1),  # writes what it may, and reads what does not exist
    ],
)
def test_a_write_to_the_words_of_the_gate_is_refused_and_changes_nothing(gate, plc, request_of_plc):
    assert ask(plc, request_of_plc) == refusal(request_of_plc, ILLEGAL_ADDRESS)
    assert gate.read(0, MAX_WORDS) == (0,) * MAX_WORDS
    assert ask(plc, read_words(0, 1)) == bytes([3, 2, 0, 0])


@pytest.mark.parametrize(
    ("request_of_plc", "code"),
    [
        (read_words(SIZE, 1), ILLEGAL_ADDRESS),
        (read_words(0, 0), ILLEGAL_VALUE),
        (read_words(0, 126), ILLEGAL_VALUE),
        (read_words(0, 1) + b"\0", ILLEGAL_VALUE),
        (write_words(0, 1)[:-1], ILLEGAL_VALUE),
        (struct.pack(">BHHB", 16, 0, 0, 0), ILLEGAL_VALUE),
        (struct.pack(">BHHBH", 16, 0, 1, 4, 1), ILLEGAL_VALUE),
        (bytes([3]), ILLEGAL_VALUE),
        (bytes([1, 0, 0, 0, 1]), ILLEGAL_FUNCTION),  # read coils
        (bytes([8, 0, 4, 0, 0]), ILLEGAL_FUNCTION),  # be silent
        (bytes([43, 14, 1, 0]), ILLEGAL_FUNCTION),
    ],
)
def test_a_request_that_cannot_be_served_gets_the_code_of_its_error(gate, plc, request_of_plc, code):
    assert ask(plc, request_of_plc) == refusal(request_of_plc, code)
    assert gate.read(0, MAX_WORDS) == (0,) * MAX_WORDS


def test_what_is_not_modbus_ends_its_connection_only(gate, plc):
    with socket.create_connection(("127.0.0.1", gate.port), timeout=LIMIT_S) as browser:
        browser.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert browser.recv(1) == b""
    assert ask(plc, read_words(0, 1)) == bytes([3, 2, 0, 0])


def test_one_connection_too_many_ends_the_one_that_was_silent_for_longest(gate, plc):
    ask(plc, read_words(0, 1))
    with contextlib.ExitStack() as stack:
        others = []
        for _ in range(MAX_CONNECTIONS):
            others.append(stack.enter_context(socket.create_connection(("127.0.0.1", gate.port), timeout=LIMIT_S)))
            ask(others[-1], read_words(0, 1))
            if len(others) == 1:
                ask(plc, read_words(0, 1))  # later than the first of the others
        with contextlib.suppress(ConnectionResetError):
            assert others[0].recv(1) == b""
        assert ask(plc, read_words(0, 1)) == bytes([3, 2, 0, 0])


def test_a_client_that_reads_no_answers_delays_nobody(gate, plc):
    with socket.create_connection(("127.0.0.1", gate.port), timeout=0.5) as flood:
        requests = frame(read_words(0, MAX_WORDS)) * 1000
        with contextlib.suppress(TimeoutError):
            for _ in range(2000):  # 24 MB of requests for 400 MB of answers
                flood.sendall(requests)
            pytest.fail("the server reads requests without an end")
        assert ask(plc, read_words(0, 1)) == bytes([3, 2, 0, 0])
        gate.write(PLC_WORDS.stop, [1])


def test_two_gates_of_a_host_have_the_port_one_after_the_other(gate, plc):
    with contextlib.closing(ModbusServer("127.0.0.1", gate.port, SIZE, PLC_WORDS)) as standby:
        with pytest.raises(PlcError, match="cannot listen on"):
            standby.write(0, [1])
        ask(plc, read_words(0, 1))
        gate.close()
        with contextlib.suppress(ConnectionResetError):
            assert plc.recv(1) == b""  # a PLC hears nothing more of a gate that has ended
        standby.write(0, [1])
        with pytest.raises(PlcError, match="cannot listen"):
            gate.read(0, 1)


def test_a_word_of_more_than_16_bits_is_an_error_of_the_writer(gate, plc):
    with pytest.raises(OverflowError):
        gate.write(0, (1, 65536))
    assert ask(plc, read_words(0, 2)) == bytes([3, 4, 0, 0, 0, 0])


def test_an_error_of_the_plc_keeps_the_connection_and_says_its_code(gate):
    with contextlib.closing(ModbusClient("127.0.0.1", gate.port, timeout_s=TIMEOUT_S)) as client:
        with pytest.raises(PlcError, match="exception code 2"):
            client.write(PLC_WORDS.stop, [1])
        client.write(0, [7])
    assert gate.read(0, 1) == (7,)


def test_libmodbus_polls_the_gate_and_sees_no_half_of_a_write(gate, tmp_path):
    program = compiled("modbus_poller.c", tmp_path, "modbus")
    poller = subprocess.Popen(
        [program, str(gate.port), "200", "100"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    stop = threading.Timer(LIMIT_S, poller.kill)
    stop.start()
    number = 0
    while poller.poll() is None:
        number = number % 65535 + 1
        gate.write(200, [number] * MAX_WORDS)
    stop.cancel()
    output, errors = poller.communicate()
    assert (output, errors) == ("100 Illegal data address\n", "")
    assert gate.read(0, 3) == (1, 2, 3)
