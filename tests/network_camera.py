"""A network camera on loopback: GStreamer's RTSP server, as a process of the system's Python."""

import itertools
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np

from patchline import config
from patchline.services import server

PYTHON = str(config.CameraRules().system_python)
SCRIPT = Path(__file__).with_name("rtsp_server.py")
WIDTH, HEIGHT = 320, 240
_BITS, _CELL = 8, 16
_UP_S, _ENDED_S = 60.0, 10.0


def is_installed():
    """Return True if gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-ugly and python3-gi of Debian are there."""
    script = (
        "import gi; gi.require_version('GstRtspServer', '1.0'); gi.require_version('Gst', '1.0');"
        "from gi.repository import Gst, GstRtspServer; Gst.init(None);"
        "assert all(map(Gst.ElementFactory.find, ('x264enc', 'rtph264pay', 'jpegenc')))"
    )
    return subprocess.run([PYTHON, "-I", "-c", script], capture_output=True, check=False).returncode == 0


def numbered_picture(number):
    """Return a grey picture that shows its number in black and white squares, uint8, HEIGHT x WIDTH."""
    noise = np.random.default_rng(number).integers(60, 200, (HEIGHT // _CELL, WIDTH // _CELL), np.uint8)
    picture = np.kron(noise, np.ones((_CELL, _CELL), np.uint8))
    for bit in range(_BITS):
        picture[:_CELL, bit * _CELL : (bit + 1) * _CELL] = 235 if number >> bit & 1 else 16
    return picture


def number_of(picture):
    """Return the number that a grey picture shows."""
    cells = [picture[4 : _CELL - 4, bit * _CELL + 4 : (bit + 1) * _CELL - 4].mean() for bit in range(_BITS)]
    return sum(1 << bit for bit, brightness in enumerate(cells) if brightness > 128)


class NetworkCamera:
    """The camera. It shows pictures of one size round and round, and prints which and when into the file `shown`."""

    def __init__(self, folder, pictures=None, rate=20, codec="h264-key-frames", login=None, port=None):
        pictures = [numbered_picture(number) for number in range(2**_BITS)] if pictures is None else pictures
        self._shown = folder / "shown"
        self.port = port or server.free_ports(1)[0]
        height, width = pictures[0].shape
        pixels = folder / f"{width}x{height}.pixels"
        pixels.write_bytes(b"".join(picture.tobytes() for picture in pictures))
        options = [self.port, pixels, width, height, rate, codec, *([login] if login else [])]
        self._command = [PYTHON, "-I", str(SCRIPT), *map(str, options)]
        self._process = None

    @property
    def address(self):
        """What follows `rtsp:` in the name of the source."""
        return f"//127.0.0.1:{self.port}/parts"

    def start(self):
        """Start the camera, and wait until it listens."""
        with self._shown.open("ab") as shown:
            self._process = subprocess.Popen(self._command, stdout=shown, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + _UP_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return
            except OSError:
                assert time.monotonic() < deadline, "the network camera does not listen"
                assert self._process.poll() is None, "the network camera has ended"

    def kill(self):
        """Kill the camera, as if it had lost its power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_ENDED_S)
            self._process = None

    def freeze(self):
        """Stop the camera: its connections stay, and it accepts new ones, and says nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self):
        """Let a frozen camera go on."""
        self._process.send_signal(signal.SIGCONT)

    def shown_at(self, number, before):
        """Return when a picture was shown for the last time before a moment, in seconds of the monotonic clock."""
        lines = (line.split() for line in self._shown.read_text().splitlines())
        moments = [
            float(line[1]) for line in itertools.takewhile(lambda line: len(line) == 2, lines) if int(line[0]) == number
        ]
        return max(moment for moment in moments if moment <= before)
