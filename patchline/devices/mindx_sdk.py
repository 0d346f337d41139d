"""Settings of the MindX SDK."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

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
        environment: of the host, with the variables of the SDK in MX_SDK_HOME.
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
            SetupError: a variable has an invalid value.
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
            environment=_sdk_environment(os.environ.get("MX_SDK_HOME")),
            sockets=Path(sockets) if sockets else None,
        )


def _sdk_environment(home: str | None) -> dict[str, str]:
    """The variables of the SDK's set_env.sh, for the host only: its libraries break other programs (docs/ascend.md)."""
    if home is None:
        return dict(os.environ)
    libraries = [f"{home}/lib", f"{home}/opensource/lib", f"{home}/opensource/lib64"]
    added = {
        "MX_SDK_HOME": home,
        "LD_LIBRARY_PATH": ":".join([*libraries, os.environ.get("LD_LIBRARY_PATH", "")]),
        "PYTHONPATH": ":".join([f"{home}/python", os.environ.get("PYTHONPATH", "")]),
        "GST_PLUGIN_SCANNER": f"{home}/opensource/libexec/gstreamer-1.0/gst-plugin-scanner",
        "GST_PLUGIN_PATH": f"{home}/opensource/lib/gstreamer-1.0:{home}/lib/plugins",
    }
    return dict(os.environ) | added
