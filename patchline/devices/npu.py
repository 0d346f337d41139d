"""What the Ascend chips of this machine say of themselves, through `npu-smi info` in a process of its own.

The vendor forbids starting processes from one that uses the device, and npu-smi can hang on a broken card: so this runs
in the worker, never in its host, and with a timeout. Two layouts of the table are known: that of 21.0 and that of 23.0,
which has a column more; docs/ascend.md shows them. No hardware has confirmed this reading.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

_TIMEOUT_S = 10.0
_MEGABYTE = 1_000_000
# A chip has two lines: "| 1  310 | OK | 12.8  49 ..." and below it "| 0  0 | 0000:01:00.0 | 0  2621 / 8192 ..."
_NPU = re.compile(r"^(\d+) (310\S*) \| (\w+) \| (?:[\d.]+|NA) (\d+)")
_CHIP = re.compile(r"^(\d+) (\d+) \| (?:[0-9A-Fa-f:.]+|NA) \| (\d+) (\d+) ?/ ?(\d+)")


@dataclass(frozen=True, slots=True)
class Chip:
    """One chip; `device` is the number that `--device ascend:N` takes."""

    device: int
    card: int
    name: str
    health: str
    temperature_celsius: float
    memory_used_bytes: int
    memory_total_bytes: int

    @property
    def healthy(self) -> bool:
        """Nothing is reported of it."""
        return self.health == "OK"


class NpuError(Exception):
    """npu-smi is missing, failed, or said something else; the text is for people."""


def read(command: str = "npu-smi", timeout_s: float = _TIMEOUT_S) -> list[Chip]:
    """The chips of this machine. Raises NpuError."""
    try:
        done = subprocess.run([command, "info"], capture_output=True, text=True, timeout=timeout_s, check=False)
    except FileNotFoundError as error:
        raise NpuError(f"{command} is not on the PATH: this machine has no Ascend driver") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NpuError(f"{command} does not answer: {error}; a card in alarm can hang it") from error
    if done.returncode != 0:
        raise NpuError(f"{command} ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-200:]}")
    chips = parse(done.stdout)
    if not chips:
        raise NpuError(f"{command} shows no Ascend 310 chip")
    return chips


def parse(table: str) -> list[Chip]:
    """The chips in the table of `npu-smi info`; the table of processes below it has other lines."""
    chips, above = [], None
    for line in table.splitlines():
        words = " ".join(line.replace("\t", " ").split()).strip("| ")
        if found := _NPU.match(words):
            above = found
        elif above is not None and (found := _CHIP.match(words)):
            chips.append(
                Chip(
                    device=int(found[2]),
                    card=int(above[1]),
                    name=above[2],
                    health=above[3],
                    temperature_celsius=float(above[4]),
                    memory_used_bytes=int(found[4]) * _MEGABYTE,
                    memory_total_bytes=int(found[5]) * _MEGABYTE,
                )
            )
            above = None
    return chips
