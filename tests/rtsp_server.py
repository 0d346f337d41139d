"""A network camera for tests, on the RTSP server library of GStreamer. Run by the system's Python, which has it:

    /usr/bin/python3 -I rtsp_server.py PORT PIXELS WIDTH HEIGHT RATE CODEC [USER:PASSWORD]

It shows the grey pictures of a file (8 bits a pixel, one after the other) round and round, at its own rate, under
rtsp://127.0.0.1:PORT/parts. For each picture that it shows it writes a line: the number of the picture, and the time of
the monotonic clock in seconds. CODEC is a key of ENCODERS.
"""

import signal
import sys
import threading
import time
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

H264 = (
    "video/x-raw,format=I420 ! "
    "x264enc tune=zerolatency speed-preset=ultrafast bitrate=8000 threads=1 sliced-threads=false"
)
PAY = "rtph264pay name=pay0 config-interval=-1"
ENCODERS = {
    "h264": f"{H264} key-int-max={{rate}} ! {PAY}",  # a key frame a second
    "h264-damaged": f"{H264} key-int-max={{rate}} ! identity name=thief ! {PAY}",
    "h264-key-frames": f"{H264} key-int-max=1 ! {PAY}",  # a busy machine damages no picture by the loss of another
    "jpeg": "video/x-raw,format=I420,colorimetry=1:4:7:1 ! jpegenc quality=95 ! rtpjpegpay name=pay0",
}
STOLEN = 7  # each seventh encoded picture never leaves the camera that shows h264-damaged


class Show:
    """Pictures that are shown to whoever watches."""

    def __init__(self, pixels, width, height, rate):
        size = width * height
        self._pictures = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        self._period_s = 1 / rate
        self._source = None
        self._encoded = 0

    def connect(self, _, media):
        pipeline = media.get_element()
        source = self._source = pipeline.get_child_by_name("source")
        thief = pipeline.get_child_by_name("thief")
        if thief is not None:
            thief.get_static_pad("src").add_probe(Gst.PadProbeType.BUFFER, self._steal)
        media.connect("unprepared", lambda _: self._disconnect(source))

    def run(self):
        number, due = 0, time.monotonic()
        while True:
            due = max(due + self._period_s, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            source, place = self._source, number % len(self._pictures)
            if source is not None:
                sys.stdout.write(f"{place} {time.monotonic()}\n")
                sys.stdout.flush()
                source.emit("push-buffer", Gst.Buffer.new_wrapped(rgb(self._pictures[place])))
            number += 1

    def _disconnect(self, source):
        if self._source is source:  # and not that of the next connection already
            self._source = None

    def _steal(self, _, info):
        self._encoded += 1
        is_key = not info.get_buffer().has_flags(Gst.BufferFlags.DELTA_UNIT)
        return Gst.PadProbeReturn.OK if is_key or self._encoded % STOLEN else Gst.PadProbeReturn.DROP


def rgb(grey):
    """Return a grey picture as RGB: GStreamer would not fit the range of a grey one to that of a video."""
    pixels = bytearray(3 * len(grey))
    for channel in range(3):
        pixels[channel::3] = grey
    return bytes(pixels)


def protect(server, factory, login):
    """Let only one user in."""
    user, _, password = login.partition(":")
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("viewer", "media.factory.access", True)
    permissions.add_permission_for_role("viewer", "media.factory.construct", True)
    factory.set_permissions(permissions)
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    auth.add_digest(user, password, token)
    server.set_auth(auth)


def main():
    port, pixels, width, height, rate, codec, *login = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Gst.init(None)
    show = Show(Path(pixels).read_bytes(), int(width), int(height), float(rate))
    caps = f"video/x-raw,format=RGB,width={width},height={height},framerate={rate}/1"
    encoder = ENCODERS[codec].format(rate=rate)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        f"( appsrc name=source is-live=true do-timestamp=true format=time max-buffers=1 leaky-type=downstream"
        f" caps={caps} ! videoconvert ! {encoder} )"
    )
    factory.set_shared(True)
    factory.connect("media-configure", show.connect)
    server = GstRtspServer.RTSPServer(service=port, address="127.0.0.1")
    server.get_mount_points().add_factory("/parts", factory)
    if login:
        protect(server, factory, login[0])
    server.attach(None)
    threading.Thread(target=show.run, daemon=True).start()
    GLib.MainLoop().run()


main()
