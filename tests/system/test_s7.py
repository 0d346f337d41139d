"""What is particular to an S7: the order of bytes, its PDU, and a block that does not exist."""

import contextlib

import pytest
from snap7.client import Client

from patchline.plc import s7
from patchline.plc.s7 import S7Words
from patchline.plc.words import PlcError
from patchline.services import server
from tests.plc_servers import DATA_BLOCK, PLCS, TIMEOUT_S, Server


@pytest.fixture(scope="module")
def plc(tmp_path_factory):
    (port,) = server.free_ports(1)
    running = Server(PLCS["s7"], port, tmp_path_factory.mktemp("s7"))
    running.start()
    yield running
    running.stop()


@pytest.fixture
def memory(plc):
    with contextlib.closing(plc.connect()) as words:
        yield words


def test_word_0_is_byte_0_of_the_block_and_its_high_byte_comes_first(plc, memory):
    program = Client()
    program.connect("127.0.0.1", 0, 1, plc.port)
    memory.write(1, (0x0102, 0xFF00))
    assert program.db_read(DATA_BLOCK, 0, 8) == bytes([0, 0, 1, 2, 255, 0, 0, 0])
    program.db_write(DATA_BLOCK, 6, bytearray([3, 4]))
    program.disconnect()
    assert memory.read(3, 1) == (0x0304,)


def test_what_does_not_fit_into_one_pdu_of_the_plc_is_an_error_and_not_split(monkeypatch, memory):
    monkeypatch.setattr(s7, "_PDU_BYTES", 240)  # what an S7-1200 grants
    memory.write(100, [1] * 106)
    with pytest.raises(PlcError, match="107 words do not fit into one PDU of this PLC, which takes 106"):
        memory.write(100, [2] * 107)
    with pytest.raises(PlcError, match="takes 111"):
        memory.read(100, 112)
    assert memory.read(100, 111) == (1,) * 106 + (0,) * 5


def test_a_block_that_does_not_exist_is_an_error_that_names_it(plc):
    with contextlib.closing(S7Words("127.0.0.1", DATA_BLOCK + 1, port=plc.port, timeout_s=TIMEOUT_S)) as words:
        with pytest.raises(PlcError, match=f"DB{DATA_BLOCK + 1}"):
            words.read(0, 1)
        with pytest.raises(PlcError, match=f"DB{DATA_BLOCK + 1}"):
            words.write(0, [1])
