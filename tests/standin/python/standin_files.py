"""The checks of the SDK's own files, as in VisionSDK: MxStreamManagerDptr.cpp and DeviceManager.cpp."""

import os
import stat
from pathlib import Path

OK, FAILURE, INVALID_PARAM = 0, 1001, 1004


def check_sdk():
    """The code of InitManager: the environment, the scanner, and each file of each plugin folder."""
    home = os.environ.get("MX_SDK_HOME")
    if not home:
        return INVALID_PARAM
    home = home.rstrip("/")
    scanner = os.environ.get("GST_PLUGIN_SCANNER", f"{home}/opensource/libexec/gstreamer-1.0/gst-plugin-scanner")
    if not _acceptable(scanner, 0o550):
        return FAILURE
    folders = f"{home}/opensource/lib/gstreamer-1.0:{home}/lib/plugins:{os.environ.get('GST_PLUGIN_PATH', '')}"
    for folder in filter(None, folders.split(":")):
        if not all(_acceptable(path, 0o640) for path in Path(folder).rglob("*") if not path.is_dir()):
            return FAILURE
    return check_library()


def check_library():
    """The code of a device's initialisation: libmxbase.so."""
    home = os.environ.get("MX_SDK_HOME", "")
    return OK if _acceptable(f"{home}/lib/libmxbase.so", 0o640) else FAILURE


def _acceptable(path, mode):
    try:
        status = Path(path).stat()
    except OSError:
        return False
    return status.st_uid == os.getuid() and not stat.S_IMODE(status.st_mode) & ~mode
