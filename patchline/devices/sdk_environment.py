"""The environment that the SDK needs: what its set_env.sh scripts export.

It is for processes of the SDK only. Its OpenSSL and libffi shadow those of the system and break other programs, the
TLS of our own connections among them (docs/ascend.md).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from patchline.devices import child_process
from patchline.devices.child_process import UnkillableProcesses
from patchline.protocol.errors import SetupError

SCRIPTS_VARIABLE = "PATCHLINE_ASCEND_SET_ENV"
HOME_VARIABLE = "MX_SDK_HOME"
_TIMEOUT_S = 30.0
_SHELL = "bash"  # the scripts ask it for their own path, BASH_SOURCE
# `shift` hides our argument from the script. It may change PATH, so `env` is named by its path.
_COMMAND = 'set_env=$1; shift; . "$set_env" >&2 && exec {env} -0'
_OF_THE_SHELL = frozenset({"_", "SHLVL", "PWD", "OLDPWD"})
_SEARCH_PATHS = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "GST_PLUGIN_PATH")  # an empty entry is the current folder


def read(base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that uses the SDK.

    Args:
        base: the environment of this process. Its PATCHLINE_ASCEND_SET_ENV lists scripts, separated by colons. Without
            any, the variables that the vendor's script exports are derived from MX_SDK_HOME.

    Raises:
        SetupError: a script is missing or failed.
    """
    environment, printed = _run_all(base)
    home = environment.get(HOME_VARIABLE)
    if (
        base.get(SCRIPTS_VARIABLE) and home is None
    ):  # the vendor's script succeeds without an effect if its package is incomplete
        raise SetupError(
            f"{SCRIPTS_VARIABLE}: no script sets {HOME_VARIABLE}; add the set_env.sh of mxVision"
            + (f" (the last one printed: {printed})" if printed else "")
        )
    if home is not None and f"{home}/python" not in environment.get("PYTHONPATH", "").split(":"):
        environment |= _of_home(home.rstrip("/"), environment)
    return _without_empty_entries(environment)


def of_scripts(base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a program of CANN, such as atc: what the scripts of PATCHLINE_ASCEND_SET_ENV export.

    Raises:
        SetupError: a script is missing or failed.
    """
    return _without_empty_entries(_run_all(base)[0])


def _run_all(base: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Run the scripts in their order. Return the environment that results, and the last line that one printed."""
    environment, printed = dict(base), ""
    for script in filter(None, base.get(SCRIPTS_VARIABLE, "").split(":")):
        environment, text = _run(Path(script), environment)
        printed = text or printed
    return environment, printed


def _run(script: Path, environment: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Run a script in a shell. Return the environment that results, and the last line that it printed."""
    where = f"{SCRIPTS_VARIABLE}: {script}"
    if not script.is_absolute() or not script.is_file():
        raise SetupError(f"{where}: is not the absolute path of a file")
    command = _COMMAND.format(env=shutil.which("env") or "env")
    try:
        arguments = [_SHELL, "--noprofile", "--norc", "-c", command, _SHELL, str(script)]
        process = child_process.run(arguments, _TIMEOUT_S, UnkillableProcesses(), environment)
    except FileNotFoundError as error:
        raise SetupError(f"{where}: needs {_SHELL}, which is not on the PATH") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"{where}: did not run to its end ({error})") from error
    last_line = os.fsdecode(process.stderr).strip().rpartition("\n")[2]
    if process.returncode != 0 or not process.stdout:
        raise SetupError(f"{where}: ended with {process.returncode} ({last_line or 'it printed nothing'})")
    return _parse(process.stdout, environment), last_line


def _parse(output: bytes, before: Mapping[str, str]) -> dict[str, str]:
    """The environment that `env -0` printed, without the variables that the shell sets for itself."""
    entries = [os.fsdecode(entry).partition("=") for entry in output.split(b"\0") if entry]
    after = {name: value for name, _, value in entries if name not in _OF_THE_SHELL}
    return after | {name: before[name] for name in _OF_THE_SHELL if name in before}


def _of_home(home: str, environment: Mapping[str, str]) -> dict[str, str]:
    libraries = [f"{home}/lib", f"{home}/opensource/lib", f"{home}/opensource/lib64"]
    return {
        HOME_VARIABLE: home,
        "LD_LIBRARY_PATH": _joined(libraries, environment.get("LD_LIBRARY_PATH", "")),
        "PYTHONPATH": _joined([f"{home}/python"], environment.get("PYTHONPATH", "")),
        "GST_PLUGIN_SCANNER": f"{home}/opensource/libexec/gstreamer-1.0/gst-plugin-scanner",
        "GST_PLUGIN_PATH": f"{home}/opensource/lib/gstreamer-1.0:{home}/lib/plugins",
    }


def _joined(entries: Sequence[str], rest: str) -> str:
    return ":".join([*entries, rest])


def _without_empty_entries(environment: dict[str, str]) -> dict[str, str]:
    cleaned = {
        name: ":".join(entry for entry in environment[name].split(":") if entry)
        for name in _SEARCH_PATHS
        if name in environment
    }
    emptied = {name for name, value in cleaned.items() if not value}
    return {name: value for name, value in (environment | cleaned).items() if name not in emptied}
