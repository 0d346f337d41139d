"""The contract of `WordMemory`, on real servers that are stopped, restarted and frozen."""

import contextlib
import functools
import threading
import time

import pytest

from patchline.plc.modbus_client import ModbusClient
from patchline.plc.modbus_server import ModbusServer
from patchline.plc.opcua_server import OpcUaServer
from patchline.plc.register_map import GateState, Layout
from patchline.plc.station import Station
from patchline.plc.words import MAX_WORDS, MemoryWords, PlcError
from patchline.services import server
from tests.opcua_peers import TypedWords
from tests.plc_servers import PLCS, SIZE, TIMEOUT_S, Server

LIMIT_S = 10  # of one call, whose own limit is shorter
RECOVERY_S = 30
VALUES_SEEN = 30
ZEROED = 16  # words at a time; no such write crosses from one area of a PLC to the other

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module", params=PLCS)
def process(request, programs):
    """A PLC, which may be stopped."""
    (port,) = server.free_ports(1)
    process = Server(PLCS[request.param], port, programs)
    yield process
    process.stop()


@pytest.fixture
def plc(process):
    """A PLC that serves. Tests use the same one, since some take seconds to start."""
    if not process.is_running:
        process.start()
    yield process
    process.thaw()


@contextlib.contextmanager
def _client_of(plc):
    with contextlib.closing(plc.connect()) as memory:
        yield memory, plc.connect


@contextlib.contextmanager
def _memory_in_this_process():
    memory = MemoryWords(SIZE)
    yield memory, lambda: memory


@contextlib.contextmanager
def _our_own_server():
    with contextlib.closing(ModbusServer("127.0.0.1", 0, SIZE, range(SIZE))) as memory:
        yield memory, lambda: ModbusClient("127.0.0.1", memory.port, timeout_s=TIMEOUT_S)


@contextlib.contextmanager
def _our_own_opcua_server():
    layout = Layout(gate=0, plc=304, slots=16)
    assert layout.plc + layout.plc_words == SIZE
    with contextlib.closing(OpcUaServer("127.0.0.1", 0, layout, timeout_s=LIMIT_S)) as memory:
        yield memory, lambda: TypedWords(memory.port, layout)


IN_PROCESS = {
    "memory": _memory_in_this_process,
    "modbus server": _our_own_server,
    "opcua server": _our_own_opcua_server,
}
FEW_WRITES = {"opcua server": 300}  # a read of MAX_WORDS words is one of 80 variables


@pytest.fixture(scope="module")
def shared(programs):
    """A function that returns the memory of this name, and how to connect to it again.

    Each is made once, since some take seconds to start.
    """
    with contextlib.ExitStack() as stack:

        @functools.cache
        def make(name):
            if name in IN_PROCESS:
                return stack.enter_context(IN_PROCESS[name]())
            (port,) = server.free_ports(1)
            running = Server(PLCS[name], port, programs)
            stack.callback(running.stop)
            running.start()
            return stack.enter_context(_client_of(running))

        yield make


@pytest.fixture(params=[*PLCS, *IN_PROCESS])
def memory_and_second(request, shared):
    """A memory of zeros, and a function that returns another connection to the same words."""
    memory, second = shared(request.param)
    for start in range(0, SIZE, ZEROED):
        with contextlib.suppress(PlcError):  # one has a hole between its areas
            memory.write(start, [0] * ZEROED)
    return memory, second


@pytest.fixture
def memory(memory_and_second):
    return memory_and_second[0]


@pytest.fixture
def second(memory_and_second):
    with contextlib.closing(memory_and_second[1]()) as connection:
        yield connection


@pytest.fixture
def writes(request):
    """Number of long writes among which halves are searched."""
    name = request.node.callspec.params["memory_and_second"]
    return FEW_WRITES.get(name, PLCS.get(name, PLCS["modbus"]).writes)


def test_what_was_written_is_read_back_here_and_elsewhere(memory, second):
    words = tuple((number * 7919 + 1) % 65536 for number in range(MAX_WORDS))
    memory.write(3, words)
    memory.write(0, (65535, 0, 32768))
    for connection in (memory, second):
        assert connection.read(0, 3) == (65535, 0, 32768)
        assert connection.read(3, MAX_WORDS) == words
        assert connection.read(3 + MAX_WORDS, 1) == (0,)
    second.write(SIZE - 1, [258])
    assert memory.read(SIZE - 2, 2) == (0, 258)


def test_a_reader_sees_all_words_of_a_write_or_none(memory, second, writes):
    with _writing(memory) as writer:
        seen = set()
        while writer.is_alive() and (writer.count < writes or len(seen) < VALUES_SEEN):
            words = set(second.read(10, MAX_WORDS))
            assert len(words) == 1, "half a write"
            seen |= words
    assert writer.count >= writes
    assert second.read(10, MAX_WORDS) == (writer.count % 65536,) * MAX_WORDS


@contextlib.contextmanager
def _writing(memory):
    """Write MAX_WORDS words again and again on a thread, all of them the number of the write."""
    writer = _Writer(memory)
    writer.start()
    try:
        yield writer
    finally:
        writer.ended.set()
        writer.join()


class _Writer(threading.Thread):
    def __init__(self, memory):
        super().__init__()
        self.count, self.ended, self._memory = 0, threading.Event(), memory

    def run(self):
        while not self.ended.is_set():
            self._memory.write(10, [(self.count + 1) % 65536] * MAX_WORDS)
            self.count += 1


@pytest.mark.parametrize(("start", "count"), [(SIZE, 1), (SIZE - 1, 2), (SIZE - MAX_WORDS + 1, MAX_WORDS)])
def test_words_outside_of_the_memory_are_an_error_and_the_next_call_works(memory, start, count):
    memory.write(start - 1, [5])
    with pytest.raises(PlcError):
        memory.read(start, count)
    with pytest.raises(PlcError):
        memory.write(start, [9] * count)
    assert memory.read(start - 1, 1) == (5,)


def test_the_same_write_twice_is_the_same_as_once(memory):
    memory.write(20, (1, 2, 3))
    memory.write(20, (1, 2, 3))
    assert memory.read(19, 5) == (0, 1, 2, 3, 0)


def test_a_memory_is_closed_twice_and_can_be_used_again(memory):
    memory.write(0, [4])
    memory.close()
    memory.close()
    assert memory.read(0, 1) == (4,)


def test_a_plc_that_is_stopped_is_an_error_and_the_next_call_after_its_restart_works(plc):
    with contextlib.closing(plc.connect()) as memory:
        memory.write(0, [1])
        plc.stop()
        for _ in range(3):
            _fails_in_time(lambda: memory.read(0, 1))
            _fails_in_time(lambda: memory.write(0, [1]))
        plc.start()
        memory.write(0, [2])
        assert memory.read(0, 1) == (2,)


def test_a_frozen_plc_is_an_error_in_time_and_the_same_write_works_once_it_goes_on(plc):
    with contextlib.closing(plc.connect()) as memory:
        memory.write(0, [1, 1])
        plc.freeze()
        for _ in range(3):
            _fails_in_time(lambda: memory.write(0, [2, 2]))
            _fails_in_time(lambda: memory.read(0, 2))
        plc.thaw()
        _succeeds_soon(lambda: memory.write(0, [2, 2]))
        assert memory.read(0, 2) == (2, 2)


def test_a_client_made_while_its_plc_is_away_fails_at_the_call_and_recovers(plc):
    plc.stop()
    with contextlib.closing(plc.connect()) as memory:
        _fails_in_time(lambda: memory.read(0, 1))
        plc.start()
        assert memory.read(0, 1) == (0,)


def _fails_in_time(call):
    start = time.monotonic()
    with pytest.raises(PlcError):
        call()
    assert time.monotonic() - start < LIMIT_S


def _succeeds_soon(call):
    limit = time.monotonic() + RECOVERY_S
    while True:
        try:
            return call()
        except PlcError:
            assert time.monotonic() < limit


@pytest.mark.parametrize("protocol", PLCS)
def test_an_area_that_the_plc_does_not_have_to_its_end_is_named(shared, protocol):
    memory, _ = shared(protocol)
    memory.write(0, [0] * ZEROED)  # earlier tests have left words here
    for layout, message in (
        (Layout(gate=0, plc=SIZE - 207, slots=16), f"the PLC's area .*, words {SIZE - 207} to {SIZE}, cannot be read"),
        (Layout(gate=SIZE - 175, plc=0, slots=16), f"the gate's area .*, words {SIZE - 175} to {SIZE}, cannot be read"),
    ):
        with pytest.raises(PlcError, match=message):
            Station(memory, layout, time.monotonic).beat(GateState.READY, {})


@pytest.mark.parametrize("protocol", PLCS)
def test_areas_that_fill_the_memory_of_the_plc_are_large_enough(shared, protocol):
    memory, _ = shared(protocol)
    memory.write(SIZE - 208, [0] * ZEROED)
    Station(memory, Layout(gate=0, plc=SIZE - 208, slots=16), time.monotonic).beat(GateState.READY, {})
    memory.write(0, [0] * ZEROED)
    Station(memory, Layout(gate=SIZE - 176, plc=0, slots=16), time.monotonic).beat(GateState.READY, {})
