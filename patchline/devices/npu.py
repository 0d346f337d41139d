"""The state of the Ascend chips of this machine, read from `npu-smi info`.

npu-smi runs in a child process of the worker, with a timeout, because it can hang on a broken card. It never runs in
the MindX host, because the vendor forbids a process that uses the device to start processes. Two layouts of the table
are supported, those of 21.0 and 23.0 (docs/ascend.md). This was never tried on hardware.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

from patchline.devices import child_process
from patchline.devices.child_process import UnkillableProcesses

_TIMEOUT_S = 10.0
_MEGABYTE = 1_000_000
_UNKILLABLE = UnkillableProcesses()
# A chip has two lines: "| 1  310 | OK | 12.8  49 ..." and "| 0  0 | 0000:01:00.0 | 0  2621 / 8192 ..."
_NPU = re.compile(r"^(\d+) (310\S*) \| (\w+) \| (?:[\d.]+|NA) (\d+)")
_CHIP = re.compile(r"^(\d+) (\d+) \| (?:[0-9A-Fa-f:.]+|NA) \| (\d+) (\d+) ?/ ?(\d+)")


@dataclass(frozen=True, slots=True)
class Chip:
    """One chip; `device` is the N of `--device ascend:N`."""

    device: int
    card: int
    name: str
    health: str
    temperature_celsius: float
    memory_used_bytes: int
    memory_total_bytes: int

    @property
    def soc_version(self) -> str:
        """The name of this kind of chip for ATC: that of npu-smi after `Ascend` (manual of ATC, `--soc_version`)."""
        return f"Ascend{self.name}"

    @property
    def healthy(self) -> bool:
        """Whether npu-smi reports no fault."""
        return self.health == "OK"


class NpuError(Exception):
    """npu-smi is missing, failed, or printed something unexpected."""


def read(command: str = "npu-smi", timeout_s: float = _TIMEOUT_S) -> list[Chip]:
    """Read the chips of this machine.

    Raises:
        NpuError: npu-smi is missing, failed, or shows no chip.
    """
    if pids := _UNKILLABLE.pids():  # one more every few seconds would fill the table of processes
        raise NpuError(f"{command} hangs, and cannot be ended (process {pids[0]}): a card does not answer")
    try:
        process = child_process.run([command, "info"], timeout_s, _UNKILLABLE)
    except FileNotFoundError as error:
        raise NpuError(f"{command} is not on the PATH: this machine has no Ascend driver") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NpuError(f"{command} does not answer: {error}; a card in alarm can hang it") from error
    if process.returncode != 0:
        output = (process.stdout + process.stderr).decode(errors="replace").strip()[-200:]
        raise NpuError(f"{command} ended with {process.returncode}: {output}")
    chips = parse(process.stdout.decode(errors="replace"))
    if not chips:
        raise NpuError(f"{command} shows no Ascend 310 chip")
    return chips


def parse(table: str) -> list[Chip]:
    """Parse the table of `npu-smi info`. The table of processes below it has other lines."""
    chips, npu_line = [], None
    for line in table.splitlines():
        words = " ".join(line.replace("\t", " ").split()).strip("| ")
        if match := _NPU.match(words):
            npu_line = match
        elif npu_line is not None and (chip_line := _CHIP.match(words)):
            chips.append(
                Chip(
                    device=int(chip_line[2]),
                    card=int(npu_line[1]),
                    name=npu_line[2],
                    health=npu_line[3],
                    temperature_celsius=float(npu_line[4]),
                    memory_used_bytes=int(chip_line[4]) * _MEGABYTE,
                    memory_total_bytes=int(chip_line[5]) * _MEGABYTE,
                )
            )
            npu_line = None
    return chips
