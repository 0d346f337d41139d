"""The register map: packing, places, and what a PLC's programmer relies on."""

import csv
import io
import math
from pathlib import Path

import pytest

from patchline import config
from patchline.plc import connecting, map_page
from patchline.plc import register_map as registers
from patchline.plc.words import MAX_WORDS, MemoryWords, PlcError

RECORDS = {
    "gate header": registers.GATE_HEADER,
    "result": registers.RESULT,
    "PLC header": registers.PLC_HEADER,
    "trigger": registers.TRIGGER,
    "confirmation": registers.CONFIRMATION,
}


@pytest.fixture
def plant_layout():
    return connecting.layout(config.load(Path("config.yaml")).plc.rules("any"))


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


def test_the_manual_and_the_csv_have_the_map(plant_layout):
    manual = Path("docs/plc.md").read_text().partition("<!-- patchline registers -->\n")[2]
    assert manual == map_page.as_markdown(plant_layout)
    rows = list(csv.DictReader(io.StringIO(map_page.as_csv(plant_layout))))
    words = [int(row["word"]) for row in rows]
    assert words == sorted(set(words))
    last = next(row for row in rows if row["name"] == f"result[{plant_layout.slots - 1}].sequence")
    assert int(last["word"]) == plant_layout.gate + plant_layout.gate_words - 1


def test_the_configuration_knows_the_sizes_of_the_areas():
    for slots in (2, 64):
        layout = registers.Layout(0, registers.GATE_HEADER.words + slots * registers.RESULT.words, slots)
        config.PlcRules(plc_start=layout.plc, slots=slots)
        with pytest.raises(ValueError, match="the areas overlap"):
            config.PlcRules(plc_start=layout.plc - 1, slots=slots)
        config.PlcRules(gate_start=layout.plc_words, plc_start=0, slots=slots)
        with pytest.raises(ValueError, match="the areas overlap"):
            config.PlcRules(gate_start=layout.plc_words - 1, plc_start=0, slots=slots)


def test_the_configuration_of_a_line_overrides_that_of_all_and_is_checked():
    settings = config.Plc(arm=100, lines={"l1": {"arm": 1200, "window": 80}})
    assert (settings.rules("l1").arm, settings.rules("l2").arm) == (1200, 100)
    with pytest.raises(ValueError, match=r"lines\.l1\.arm_at: Extra inputs are not permitted"):
        config.Plc(lines={"l1": {"arm_at": 5}})
    with pytest.raises(ValueError, match="window 200 is longer than the way to the arm"):
        config.Plc(lines={"l1": {"arm": 100, "window": 200}})
