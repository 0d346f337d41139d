"""Payloads of Sparkplug B."""

import pytest

from patchline.plc.sparkplug import DataType, Metric, commands, encode

# Two other libraries decode these bytes to the metrics below: pysparkplug 0.6.1 and mqtt-spb-wrapper 2.1.2. Both want
# an older paho-mqtt than ours.
DECODED_ELSEWHERE = (
    "0880a0f1c2b13412120a0562645365711880a0f1c2b1342004580712210a144e6f646520436f6e74726f6c2f526562697274681880a0f1c2b1"
    "34200b7000121e0a0a476174652f53746174651880a0f1c2b134200c7a0773657276696e6712200a0c526573756c742f53636f72651880a0f1"
    "c2b134200a69000000000000d03f12170a016e1880a0f1c2b134200458fbffffffffffffffff01120e0a01781880a0f1c2b134200a380118ff"
    "01"
)
METRICS = [
    Metric("bdSeq", DataType.INT64, 7),
    Metric("Node Control/Rebirth", DataType.BOOLEAN, False),
    Metric("Gate/State", DataType.STRING, "serving"),
    Metric("Result/Score", DataType.DOUBLE, 0.25),
    Metric("n", DataType.INT64, -5),
    Metric("x", DataType.DOUBLE, None),
]


def test_a_payload_has_the_bytes_that_two_other_libraries_decode():
    assert encode(METRICS, 1_800_000_000_000, 255).hex() == DECODED_ELSEWHERE


def test_the_boolean_metrics_of_a_command_are_read_by_name():
    assert commands(bytes.fromhex(DECODED_ELSEWHERE)) == {"Node Control/Rebirth": False}
    assert commands(encode([Metric("Node Control/Rebirth", DataType.BOOLEAN, True)], 1)) == {
        "Node Control/Rebirth": True
    }


def test_a_death_certificate_has_no_sequence_number():
    assert encode([], 1) == b"\x08\x01"


@pytest.mark.parametrize("payload", [b"\x12\x7f", b"\xff", b'{"rebirth": true}'])
def test_what_is_no_payload_is_refused(payload):
    with pytest.raises(ValueError, match="no payload of Sparkplug B"):
        commands(payload)
