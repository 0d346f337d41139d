"""The machine of the stand-in: its chips, their memory, and the processes that use them.

STANDIN_MACHINE names a folder with `chips.json`, a list of chips: {"name", "health", "card", "memory_mb"}. All
processes of the stand-in share it, npu-smi among them. Without it, there are four idle chips without limits.
"""

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path

MAX_PROCESSES = 32  # that use a device at the same time, in CANN 5.0.4
_CARD = [{"name": "310", "health": "OK", "card": 1, "memory_mb": 8192} for _ in range(4)]
_CONTEXT_MB = 100  # of each process, a number of the stand-in


class OutOfMemoryError(Exception):
    """The device is not there, or has no place for one more process."""


def chips():
    """The chips by device number, with the memory that is used."""
    folder = _folder()
    found = json.loads((folder / "chips.json").read_text()) if folder else _CARD
    return [chip | {"used_mb": sum(_users(device).values())} for device, chip in enumerate(found)]


def occupy(device, model_mb):
    """Take memory of a device until the end of this process.

    Raises:
        OutOfMemoryError: there is too little, or there are too many processes.
    """
    if not 0 <= device < len(chips()):
        raise OutOfMemoryError(f"device {device} is not there")
    if _folder() is None:
        return
    with _locked("machine"):
        chip, users = chips()[device], _users(device)
        if chip["used_mb"] + _CONTEXT_MB + model_mb > chip["memory_mb"] or len(users) >= MAX_PROCESSES:
            raise OutOfMemoryError(f"device {device} has no place for {_CONTEXT_MB + model_mb} MB")
        (_folder() / f"{device}-{os.getpid()}.user").write_text(str(users.get(os.getpid(), _CONTEXT_MB) + model_mb))


@contextlib.contextmanager
def computing(device):
    """Hold the cores of a device, which compute one image at a time, for STANDIN_COMPUTE_MS at least."""
    milliseconds = float(os.environ.get("STANDIN_COMPUTE_MS", "0"))
    if _folder() is None:
        yield
        return
    with _locked(f"chip-{device}"):
        ends = time.monotonic() + milliseconds / 1000
        yield
        time.sleep(max(0.0, ends - time.monotonic()))


def transfer():
    """Move an image to the device, or its features back: half of STANDIN_TRANSFER_MS each."""
    time.sleep(float(os.environ.get("STANDIN_TRANSFER_MS", "0")) / 2000)


def _folder():
    name = os.environ.get("STANDIN_MACHINE")
    return Path(name) if name else None


def _users(device):
    """Megabytes by process. Those of processes that have ended are free again."""
    users = {}
    for path in _folder().glob(f"{device}-*.user") if _folder() else ():
        pid = int(path.stem.partition("-")[2])
        if Path(f"/proc/{pid}").exists():
            users[pid] = int(path.read_text())
        else:
            path.unlink(missing_ok=True)
    return users


@contextlib.contextmanager
def _locked(name):
    with (_folder() / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
