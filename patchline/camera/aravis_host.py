"""Speaks to one GigE Vision or USB3 Vision camera through Aravis. Run by `host_loop.py` with the system's Python, which
has its bindings. Only the standard library and gi are used.
"""

from __future__ import annotations

import gc
import time
from typing import Any

import gi

gi.require_version("Aravis", "0.8")
from gi.repository import Aravis, GLib  # noqa: E402 - the version comes first

_BUFFERS = 4
_MIN_SOCKET_BYTES = 1 << 20  # the kernel grants up to net.core.rmem_max
_SLICE_S = 0.02  # between two looks at the signal that the camera is lost
_STEP = 0.01  # of a value, or of the unit of a small one: what a camera may round
_STALE_S = 0.3  # time for a frame of an earlier trigger to come
_EMPTY = (Aravis.BufferStatus.CLEARED, Aravis.BufferStatus.FILLING)  # buffers that come back without a frame


class Lost(Exception):
    """The camera is gone, or refuses what is needed."""


LOST = (Lost, GLib.Error)


class Host:
    """One camera."""

    def __init__(self) -> None:
        self._camera: Any = None
        self._device: Any = None
        self._stream: Any = None
        self._lost = False
        self._owed = 0  # triggers whose frame has not come, not even broken

    def find(self) -> dict[str, Any]:
        """Return the cameras that Aravis sees."""
        Aravis.update_device_list()
        cameras = []
        for number in range(Aravis.get_n_devices()):
            gige = Aravis.get_device_protocol(number) == "GigEVision"
            place = Aravis.get_device_address(number) if gige else Aravis.get_device_id(number)
            maker, model = Aravis.get_device_vendor(number), Aravis.get_device_model(number)
            name = f"{maker} {model}, {Aravis.get_device_serial_nbr(number)}"
            cameras.append({"place": place, "name": name, "state": _state(place)})
        return {"cameras": cameras}

    def open(self, place: str, settings: dict[str, Any], frame_s: float) -> dict[str, Any]:
        """Open the camera, set it to one frame for each software trigger, and see a first frame come."""
        try:
            self._camera = Aravis.Camera.new(place)
        except GLib.Error as error:
            raise Lost(f"{place}: {error.message}; `patchline cameras` lists those that are seen") from error
        self._device = self._camera.get_device()
        self._device.connect("control-lost", self._on_lost)
        if hasattr(self._device, "is_controller") and not self._device.is_controller():
            raise Lost("another program controls this camera")
        self._camera.stop_acquisition()
        self._apply(settings)
        self._camera.set_acquisition_mode(Aravis.AcquisitionMode.CONTINUOUS)
        self._camera.set_trigger("Software")  # last: setting the frame rate after it ends the trigger mode
        mode, source = self._device.get_string_feature_value("TriggerMode"), self._camera.get_trigger_source()
        if (mode, source) != ("On", "Software"):
            raise Lost(f"the camera does not wait for a software trigger: TriggerMode {mode}, TriggerSource {source}")
        self._pixel_format = self._camera.get_pixel_format_as_string()
        self._start_stream()
        self._take_first_frame(frame_s)
        return {"model": f"{self._camera.get_vendor_name()} {self._camera.get_model_name()}"}

    def _start_stream(self) -> None:
        gige, payload = self._camera.is_gv_device(), self._camera.get_payload()
        if gige:
            # As root, Aravis 0.8.26 reads the interface itself. A packet of another program that it sees first may then
            # make it take all frames for old ones.
            self._camera.gv_set_stream_options(Aravis.GvStreamOption.PACKET_SOCKET_DISABLED)
        self._stream = self._camera.create_stream(None, None)
        if self._stream is None:
            raise Lost("no stream of frames can be opened; another program may receive them")
        if gige:
            self._stream.set_property("socket-buffer", Aravis.GvStreamSocketBuffer.FIXED)
            self._stream.set_property("socket-buffer-size", max(_MIN_SOCKET_BYTES, _BUFFERS * payload))
        for _ in range(_BUFFERS):
            self._stream.push_buffer(Aravis.Buffer.new_allocate(payload))
        self._camera.start_acquisition()

    def _take_first_frame(self, frame_s: float) -> None:
        """Throw away the first frame. Aravis enlarges its socket with it, so that its packets may not have room."""
        self.trigger()
        if self._pop(time.monotonic() + frame_s) is None:
            raise Lost(f"the camera takes a trigger, and gives no frame within {frame_s:g} s")

    def close(self) -> None:
        """Give up the control of the camera: others could not open it for some seconds."""
        try:
            if self._stream is not None and not self._lost:
                self._camera.stop_acquisition()
        except GLib.Error:
            pass
        self._stream = self._device = self._camera = None
        gc.collect()  # Aravis gives up the control with the last reference

    def arm(self) -> dict[str, Any]:
        """Throw away the frames of earlier triggers, also those that come soon."""
        self._check()
        if self._owed:
            self._camera.stop_acquisition()
            self._camera.start_acquisition()
            deadline = time.monotonic() + _STALE_S
            while self._owed and time.monotonic() < deadline:
                self._pop(deadline)
        while self._pop(0.0) is not None:
            pass
        self._owed = 0
        return {}

    def trigger(self) -> dict[str, Any]:
        """Take one picture."""
        self._check()
        self._camera.software_trigger()
        self._owed += 1
        return {}

    def arrived(self) -> dict[str, Any]:
        """Return whether a frame waits to be grabbed."""
        return {"frames": self._stream.get_n_buffers().n_output_buffers}

    def grab(self, timeout_s: float) -> tuple[dict[str, Any], bytes]:
        """Return the next frame. Its status decides; a broken one has the id, the time and the pixels of an old one."""
        self._check()
        popped = self._pop(time.monotonic() + timeout_s)
        if popped is None:
            return {"error": "no_frame", "text": f"no frame within {timeout_s * 1000:.0f} ms"}, b""
        status, header, data = popped
        if status != Aravis.BufferStatus.SUCCESS:
            return {"error": "broken", "text": f"the frame is incomplete ({status.value_nick})"}, b""
        return header, data

    def _pop(self, deadline: float) -> tuple[Any, dict[str, Any], bytes] | None:
        """Return status, header and pixels of the next frame; None if none comes in time."""
        while True:
            remaining_s = max(0.0, deadline - time.monotonic())
            buffer = self._stream.timeout_pop_buffer(int(min(remaining_s, _SLICE_S) * 1e6))
            if buffer is not None:
                status = buffer.get_status()
                if status not in _EMPTY:
                    self._owed = max(0, self._owed - 1)
                    whole = status == Aravis.BufferStatus.SUCCESS
                    header, data = self._content(buffer) if whole else ({}, b"")
                    self._stream.push_buffer(buffer)
                    return status, header, data
                self._stream.push_buffer(buffer)
            self._check()
            if time.monotonic() >= deadline:
                return None

    def _content(self, buffer: Any) -> tuple[dict[str, Any], bytes]:
        data = bytes(buffer.get_image_data())
        header = {
            "pixel_format": self._pixel_format,
            "width": buffer.get_image_width(),
            "height": buffer.get_image_height(),
            "size": len(data),
        }
        return header, data

    def _apply(self, settings: dict[str, Any]) -> None:
        """Set the camera. Aravis writes what is out of bounds, too, so bounds are checked, and values read back."""
        camera = self._camera
        for name, value in settings["features"].items():
            self._set(name, value)
        if settings["pixel_format"] is not None:
            formats, wanted = camera.dup_available_pixel_formats_as_strings(), settings["pixel_format"]
            _require_one_of("camera.pixel_format", wanted, formats)
            camera.set_pixel_format_from_string(wanted)
            _require_same("camera.pixel_format", wanted, camera.get_pixel_format_as_string())
        if settings["region"] is not None:
            self._set_region(*settings["region"])
        if (exposure_us := settings["exposure_us"]) is not None:
            if camera.is_exposure_auto_available():
                camera.set_exposure_time_auto(Aravis.Auto.OFF)
            _require_within("camera.exposure_us", exposure_us, camera.get_exposure_time_bounds())
            camera.set_exposure_time(exposure_us)
            _require_same("camera.exposure_us", exposure_us, camera.get_exposure_time())
        if (gain := settings["gain"]) is not None:
            if camera.is_gain_auto_available():
                camera.set_gain_auto(Aravis.Auto.OFF)
            _require_within("camera.gain", gain, camera.get_gain_bounds())
            camera.set_gain(gain)
            _require_same("camera.gain", gain, camera.get_gain())

    def _set_region(self, x: int, y: int, width: int, height: int) -> None:
        """Set the region. The bounds of a size are those of the sensor while the offsets are 0."""
        camera, offsets = self._camera, {"OffsetX": x, "OffsetY": y}
        for name in offsets:
            if self._device.get_feature(name) is not None:
                camera.set_integer(name, 0)
        sizes = {"width": (width, x, camera.get_width_bounds()), "height": (height, y, camera.get_height_bounds())}
        for name, (size, offset, bounds) in sizes.items():
            _require_within(f"camera.region: its {name}", size, bounds)
            if offset + size > bounds[1]:
                raise Lost(
                    f"camera.region: offset and {name} are {offset} + {size}, and the sensor has {bounds[1]} pixels"
                )
        camera.set_region(x, y, width, height)
        _require_same("camera.region", [x, y, width, height], list(camera.get_region()))

    def _set(self, name: str, value: bool | int | float | str) -> None:
        device, setting = self._device, f"camera.features: {name}"
        feature = device.get_feature(name)
        if feature is None:
            raise Lost(f"the camera has no setting {name}")
        kind = "float" if isinstance(feature, Aravis.GcFloat) else "integer"
        if isinstance(value, (bool, str)):
            kind = "boolean" if isinstance(value, bool) else "string"
            if isinstance(feature, Aravis.GcEnumeration):
                _require_one_of(setting, value, device.dup_available_enumeration_feature_values_as_strings(name))
        elif kind == "integer" and value != int(value):
            raise Lost(f"{setting} is {value}, and the camera takes whole numbers")
        else:
            value = float(value) if kind == "float" else int(value)
            _require_within(setting, value, getattr(device, f"get_{kind}_feature_bounds")(name))
        getattr(device, f"set_{kind}_feature_value")(name, value)
        if feature.get_actual_access_mode() != Aravis.GcAccessMode.WO:
            _require_same(setting, value, getattr(device, f"get_{kind}_feature_value")(name))

    def _check(self) -> None:
        if self._lost:
            raise Lost("the camera does not answer any more")

    def _on_lost(self, _: Any) -> None:
        self._lost = True


def _require_within(setting: str, value: float, bounds: Any) -> None:
    low, high = bounds[0], bounds[1]
    if not low <= value <= high:
        raise Lost(f"{setting} is {value:.12g}, and the camera takes {low:.12g} to {high:.12g}")


def _require_one_of(setting: str, value: object, known: list[str]) -> None:
    if value not in known:
        raise Lost(f"{setting} is {value!r}, and the camera takes one of {', '.join(known)}")


def _require_same(setting: str, wanted: Any, found: Any) -> None:
    """Check what was read back. Cameras round times and gains to steps of their own."""
    room = _STEP * max(1.0, abs(wanted)) if isinstance(wanted, float) else None
    if (found != wanted) if room is None else (abs(found - wanted) > room):
        raise Lost(f"{setting} was set to {wanted}, and the camera has {found}; write a value that it keeps")


def _state(place: str) -> str:
    """Return whether a camera can be controlled, for people. It is opened for a moment."""
    try:
        camera = Aravis.Camera.new(place)
    except GLib.Error as error:
        return f"not reachable: {error.message}"
    device = camera.get_device()
    if hasattr(device, "is_controller") and not device.is_controller():
        return "used by another program"
    return "reachable"
