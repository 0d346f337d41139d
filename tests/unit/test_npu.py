"""Both layouts of `npu-smi info` on an Ascend 310 (docs/ascend.md), and failures of npu-smi."""

import threading

import pytest

from patchline.devices import npu
from patchline.worker import metrics as worker_metrics
from patchline.worker.metrics import Metrics

TABLE_21_0 = """
+------------------------------------------------------------------------------+
| npu-smi 21.0.3.1                     Version: 21.0.3.1                        |
+-------------------+-----------------+----------------------------------------+
| NPU     Name      | Health          | Power(W)          Temp(C)              |
| Chip    Device    | Bus-Id          | AICore(%)         Memory-Usage(MB)     |
+===================+=================+========================================+
| 1       310       | OK              | 12.8              49                   |
| 0       0         | 0000:01:00.0    | 0                 2621 / 8192          |
+-------------------+-----------------+----------------------------------------+
| 1       310       | Alarm           | 12.8              71                   |
| 1       1         | 0000:01:00.0    | 97                5324 / 8192          |
+===================+=================+========================================+
"""
TABLE_23_0 = """
+--------------------------------------------------------------------------------------------------------+
| npu-smi 23.0.0                                   Version: 23.0.0                                       |
+-------------------------------+-----------------+------------------------------------------------------+
| NPU     Name                  | Health          | Power(W)     Temp(C)           Hugepages-Usage(page) |
| Chip    Device                | Bus-Id          | AICore(%)    Memory-Usage(MB)                        |
+===============================+=================+======================================================+
| 0       310                   | OK              | 12.8         61                0     / 969           |
| 0       0                     | 0000:01:00.0    | 0            577  / 7759                             |
+===============================+=================+======================================================+
| NPU     Chip                  | Process id      | Process name             | Process memory(MB)        |
+===============================+=================+======================================================+
| 0       0                     | 12345           | python3.9                | 310                       |
+===============================+=================+======================================================+
"""


def test_the_table_of_21_0_is_parsed():
    first, second = npu.parse(TABLE_21_0)
    assert (first.device, first.card, first.name, first.healthy) == (0, 1, "310", True)
    assert (first.temperature_celsius, first.memory_used_bytes, first.memory_total_bytes) == (49, 2621e6, 8192e6)
    assert (second.device, second.health, second.healthy) == (1, "Alarm", False)


def test_the_table_of_23_0_is_parsed_without_its_processes():
    (chip,) = npu.parse(TABLE_23_0)
    assert (chip.temperature_celsius, chip.memory_used_bytes, chip.memory_total_bytes) == (61, 577e6, 7759e6)


@pytest.mark.parametrize("table", [TABLE_21_0, TABLE_23_0])
def test_a_310p_is_parsed(table):
    assert {chip.name for chip in npu.parse(table.replace(" 310  ", " 310P3"))} == {"310P3"}


def test_a_chip_without_bus_id_is_parsed():
    assert len(npu.parse(TABLE_21_0.replace("0000:01:00.0", "NA          "))) == 2


@pytest.fixture
def npu_smi(tmp_path):
    def write(script):
        path = tmp_path / "npu-smi"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return write


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exec sleep 60", "a card in alarm can hang it"),
        ("echo broken; exit 3", "ended with 3: broken"),
        ("true", "no Ascend 310"),
    ],
)
def test_a_failure_of_npu_smi_is_reported(npu_smi, script, message):
    with pytest.raises(npu.NpuError, match=message):
        npu.read(npu_smi(script), timeout_s=0.5)


def test_the_state_of_the_chip_goes_to_prometheus_and_is_absent_when_nobody_answers(monkeypatch):
    metrics, stop = Metrics("ascend:1", ["bottle"]), threading.Event()
    answers, shown = iter([npu.parse(TABLE_21_0), None, npu.parse(TABLE_21_0)]), []

    def read():
        if (answer := next(answers, "end")) in (None, "end"):
            raise npu.NpuError("silent")
        return answer

    def wait(_):
        shown.append(metrics.registry.get_sample_value("patchline_device_temperature_celsius"))
        if len(shown) == 3:
            stop.set()

    monkeypatch.setattr(worker_metrics.npu, "read", read)
    monkeypatch.setattr(stop, "wait", wait)
    metrics.watch_chip(1, stop)
    assert shown == [71, None, 71]
    assert metrics.registry.get_sample_value("patchline_device_healthy") == 0
