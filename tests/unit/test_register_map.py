"""The register map: packing, places, and what a PLC's programmer relies on."""

import math

import pytest

from patchline.plc import register_map as registers
from patchline.plc.words import MAX_WORDS, MemoryWords, PlcError

RECORDS = {
    "gate header": registers.GATE_HEADER,
    "result": registers.RESULT,
    "PLC header": registers.PLC_HEADER,
    "trigger": registers.TRIGGER,
    "confirmation": registers.CONFIRMATION,
}
VALUES = {"word": 65_535, "dword": 2**32 - 1, "dint": registers.NO_COUNT, "real": 0.5}


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_record_that_is_packed_and_unpacked_is_the_same(record):
    values = {field.name: VALUES[field.kind] for field in record.fields}
    words = record.pack(values)
    assert len(words) == record.words
    assert record.unpack(words) == values


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_a_record_fits_into_one_write_and_its_names_differ(record):
    assert record.words <= MAX_WORDS
    assert len({field.name for field in record.fields}) == len(record.fields)


@pytest.mark.parametrize("name", ["result", "trigger", "confirmation"])
def test_the_sequence_number_is_the_last_word_of_a_slot(name):
    record = RECORDS[name]
    assert record.offset("sequence") == record.words - 1


def test_32_bits_have_the_high_word_first():
    words = registers.RESULT.pack({"number": 0x00010002, "score": 1.0})
    assert words[:2] == (1, 2)
    assert words[registers.RESULT.offset("score")] == 0x3F80


def test_a_missing_score_is_not_a_number():
    words = registers.RESULT.pack({"score": math.nan})
    assert math.isnan(registers.RESULT.unpack(words)["score"])


def test_slots_do_not_overlap_and_stay_inside_of_their_area():
    layout = registers.Layout(gate=0, plc=1000, slots=32)
    spans = [(layout.gate, registers.GATE_HEADER.words), (layout.plc, registers.PLC_HEADER.words)]
    for number in range(layout.slots):
        spans.append((layout.result(number), registers.RESULT.words))
        spans.append((layout.trigger(number), registers.TRIGGER.words))
        spans.append((layout.confirmation(number), registers.CONFIRMATION.words))
    words = [start + place for start, count in spans for place in range(count)]
    assert len(set(words)) == len(words) == layout.gate_words + layout.plc_words
    assert max(words) == layout.plc + layout.plc_words - 1


def test_the_same_part_has_the_same_slot():
    layout = registers.Layout(gate=0, plc=1000, slots=32)
    assert layout.result(7) == layout.result(7 + 32) != layout.result(8)


def test_a_sequence_number_is_never_0():
    assert registers.next_sequence(0) == 1
    assert registers.next_sequence(65_534) == 65_535
    assert registers.next_sequence(65_535) == 1


def test_words_outside_of_the_memory_are_an_error():
    memory = MemoryWords(size=10)
    memory.write(8, [1, 2])
    assert memory.read(7, 3) == (0, 1, 2)
    with pytest.raises(PlcError, match="words 9 to 10 do not exist"):
        memory.read(9, 2)
