"""Settings of the MindX SDK."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from patchline.devices import sdk_environment
from patchline.protocol.errors import SetupError


@dataclass(frozen=True)
class Sdk:
    """Settings of the vendor's SDK, read from environment variables because they differ between machines.

    Attributes:
        python: the interpreter of the SDK, PATCHLINE_MINDX_PYTHON.
        surface: the API of the SDK, `stream`, `base` or `auto`, PATCHLINE_MINDX_SURFACE.
        timeout_ms: for one image, PATCHLINE_MINDX_TIMEOUT_MS.
        start_timeout_s: for the start of the host.
        max_failures: in a row, before the device is lost.
        environment: of a host that is a child (see `sdk_environment`).
        sockets: a folder in which hosts listen, `ascend0.sock` for device 0, PATCHLINE_MINDX_SOCKETS. None starts hosts
            as children.
    """

    python: str
    surface: str
    timeout_ms: int
    start_timeout_s: float
    max_failures: int
    environment: dict[str, str]
    sockets: Path | None

    @classmethod
    def from_environment(cls) -> Sdk:
        """Read the settings.

        Raises:
            SetupError: a variable has an invalid value, or a script of the SDK failed.
        """
        surface = os.environ.get("PATCHLINE_MINDX_SURFACE", "auto")
        sockets = os.environ.get("PATCHLINE_MINDX_SOCKETS")
        timeout = os.environ.get("PATCHLINE_MINDX_TIMEOUT_MS", "2000")
        if surface not in ("auto", "stream", "base") or not timeout.isdecimal() or not 1 <= int(timeout) <= 60_000:
            raise SetupError(
                "PATCHLINE_MINDX_SURFACE must be auto, stream or base; PATCHLINE_MINDX_TIMEOUT_MS must be 1 to 60000"
            )
        return cls(
            python=os.environ.get("PATCHLINE_MINDX_PYTHON", "python3.9"),
            surface=surface,
            timeout_ms=int(timeout),
            start_timeout_s=60.0,
            max_failures=8,
            environment={} if sockets else sdk_environment.read(os.environ),
            sockets=Path(sockets) if sockets else None,
        )
