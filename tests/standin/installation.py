"""Installs the stand-in as the vendor's installers do: files with their owner and mode, and the set_env.sh scripts."""

from pathlib import Path

PYTHON, PROGRAMS = Path(__file__).with_name("python"), Path(__file__).with_name("bin")
PLUGINS = ("lib/plugins/libmxpi_tensorinfer.so", "lib/libmxbase.so", "opensource/lib/gstreamer-1.0/libgstapp.so")
SCANNER = "opensource/libexec/gstreamer-1.0/gst-plugin-scanner"

_MXVISION = """here=$(cd "$(dirname "${BASH_SOURCE[0]}")"; pwd)
if [[ -f "$here/filelist.txt" ]] && [[ -f "$here/version.info" ]]; then
    export MX_SDK_HOME="$here"
    export GST_PLUGIN_SCANNER="$here/opensource/libexec/gstreamer-1.0/gst-plugin-scanner"
    export GST_PLUGIN_PATH="$here/opensource/lib/gstreamer-1.0:$here/lib/plugins"
    export LD_LIBRARY_PATH="$here/lib:$here/opensource/lib:$here/opensource/lib64:${LD_LIBRARY_PATH}"
    export PYTHONPATH="$here/python:${PYTHONPATH}"
else
    echo "The package is incomplete, please check it."
fi
"""
_CANN = """export ASCEND_TOOLKIT_HOME=$(cd "$(dirname "${BASH_SOURCE[0]}")"; pwd)
export LD_LIBRARY_PATH=${ASCEND_TOOLKIT_HOME}/lib64:$LD_LIBRARY_PATH
export PYTHONPATH=${ASCEND_TOOLKIT_HOME}/python/site-packages:$PYTHONPATH
export PATH=${ASCEND_TOOLKIT_HOME}/bin:$PATH
export ASCEND_OPP_PATH=${ASCEND_TOOLKIT_HOME}/opp
"""


def install(folder: Path) -> Path:
    """Return the folder of an installed SDK, for MX_SDK_HOME; its set_env.sh is in it."""
    home = folder / "mxVision-2.0.4"
    home.mkdir(parents=True)
    (home / "python").symlink_to(PYTHON)
    (home / "version.info").write_text("mxVision: 2.0.4\n")
    (home / "filelist.txt").write_text("")
    (home / "set_env.sh").write_text(_MXVISION)
    for name, mode in (*((name, 0o640) for name in PLUGINS), (SCANNER, 0o550)):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x7fELF")
        path.chmod(mode)
    return home


def install_cann(folder: Path) -> Path:
    """Return the set_env.sh of an installed CANN toolkit."""
    script = folder / "ascend-toolkit" / "set_env.sh"
    (script.parent / "bin").mkdir(parents=True)
    (script.parent / "bin" / "atc").symlink_to(PROGRAMS / "atc")
    script.write_text(_CANN)
    return script
