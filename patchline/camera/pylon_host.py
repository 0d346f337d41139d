"""Speaks to one camera through pylon. Run by `host_loop.py`. Only the standard library and pypylon are used."""

from __future__ import annotations

import time
from typing import Any

from pypylon import genicam, pylon

_STEP = 0.01  # of a value, or of the unit of a small one: what a camera may round
_SLICE_S = 0.1  # between two looks whether the camera is lost
_READY_S = 5.0  # after the begin of the acquisition, and after a frame: a trigger before that is lost without a sign
_CONTROL = pylon.DeviceAccessMode_Control | pylon.DeviceAccessMode_Stream
_STATES = {
    pylon.Accessibility_Ok: "reachable",
    pylon.Accessibility_Opened: "used by another program",
    pylon.Accessibility_OpenedExclusively: "used by another program",
    pylon.Accessibility_NotReachable: "not reachable: its IP address does not fit this host's network",
}


class Lost(Exception):
    """The camera is gone, or refuses what is needed."""


LOST = (Lost, genicam.GenericException)


class Host:
    """One camera."""

    def __init__(self) -> None:
        self._camera: Any = None
        self._nodes: Any = None
        self._owed = 0  # triggers whose frame has not come, not even broken

    def find(self) -> dict[str, Any]:
        """Return the cameras that pylon sees."""
        cameras = []
        for info in pylon.TlFactory.GetInstance().EnumerateDevices():
            name = f"{info.GetVendorName()} {info.GetModelName()}, {info.GetSerialNumber()}"
            cameras.append({"place": info.GetSerialNumber(), "name": name, "state": _state(info)})
        return {"cameras": cameras}

    def open(self, place: str, settings: dict[str, Any], frame_s: float) -> dict[str, Any]:
        """Open the camera, set it to one frame for each software trigger, and see a first frame come."""
        factory = pylon.TlFactory.GetInstance()
        wanted = pylon.DeviceInfo()
        wanted.SetSerialNumber(place)
        found = factory.EnumerateDevices([wanted])
        if not found:
            raise Lost(f"no camera has the serial number {place}; `patchline cameras` lists those that answer")
        state = _state(found[0])
        if state != _STATES[pylon.Accessibility_Ok]:
            raise Lost(f"the camera is {state}")
        self._control(factory.CreateDevice(found[0]))
        self._apply(settings)
        pylon.SoftwareTriggerConfiguration.ApplyConfiguration(self._nodes)
        mode, source = (self._nodes.GetNode(name).ToString() for name in ("TriggerMode", "TriggerSource"))
        if (mode, source) != ("On", "Software"):
            raise Lost(f"the camera does not wait for a software trigger: TriggerMode {mode}, TriggerSource {source}")
        self._pixel_format = self._nodes.GetNode("PixelFormat").ToString()
        self._start()
        self.arm()
        self._take_first_frame(frame_s)
        return {"model": found[0].GetFriendlyName()}

    def _control(self, device: Any) -> None:
        self._camera = pylon.InstantCamera(device)
        self._camera.RegisterConfiguration(  # instead of the one that lets the camera run freely
            pylon.ConfigurationEventHandler(), pylon.RegistrationMode_ReplaceAll, pylon.Cleanup_Delete
        )
        self._camera.Open()
        self._nodes = self._camera.GetNodeMap()

    def _take_first_frame(self, frame_s: float) -> None:
        """Throw away the first frame. A camera that gives none is not open."""
        self.trigger()
        if self._pop(time.monotonic() + frame_s) is None:
            raise Lost(f"the camera takes a trigger, and gives no frame within {frame_s:g} s")

    def close(self) -> None:
        """Give up the control of the camera."""
        if self._camera is not None:
            self._camera.Close()

    def arm(self) -> dict[str, Any]:
        """Throw away the frames of earlier triggers, also those that are still to come, and wait until it is ready."""
        self._check()
        if self._owed:
            self._camera.StopGrabbing()
            self._start()
            self._owed = 0
        can_wait = self._camera.CanWaitForFrameTriggerReady()
        if can_wait and not self._camera.WaitForFrameTriggerReady(int(_READY_S * 1000), pylon.TimeoutHandling_Return):
            raise Lost(f"the camera is not ready for a trigger within {_READY_S:.0f} s")
        return {}

    def trigger(self) -> dict[str, Any]:
        """Take one picture."""
        self._check()
        self._camera.ExecuteSoftwareTrigger()
        self._owed += 1
        return {}

    def arrived(self) -> dict[str, Any]:
        """Return whether a frame waits to be grabbed."""
        return {"frames": int(self._camera.GetGrabResultWaitObject().Wait(0))}

    def grab(self, timeout_s: float) -> tuple[dict[str, Any], bytes]:
        """Return the next frame. `GrabSucceeded` decides: a broken one has no error code, and an old one's content."""
        result = self._pop(time.monotonic() + timeout_s)
        if result is None:
            return {"error": "no_frame", "text": f"no frame within {timeout_s * 1000:.0f} ms"}, b""
        if not result.GrabSucceeded():
            return {"error": "broken", "text": f"the frame is incomplete ({result.GetErrorDescription()})"}, b""
        data = _pixels(result)
        header = {"pixel_format": self._pixel_format, "width": result.GetWidth(), "height": result.GetHeight()}
        return header | {"size": len(data)}, data

    def _pop(self, deadline: float) -> Any:
        """Return the next frame, whole or not; None if none comes in time."""
        while True:
            self._check()
            wait_s = min(_SLICE_S, max(0.0, deadline - time.monotonic()))
            result = self._camera.RetrieveResult(int(wait_s * 1000), pylon.TimeoutHandling_Return)
            if result.IsValid():
                self._owed = max(0, self._owed - 1)
                return result
            if time.monotonic() >= deadline:
                return None

    def _start(self) -> None:
        self._camera.StartGrabbing(pylon.GrabStrategy_OneByOne, pylon.GrabLoop_ProvidedByUser)

    def _apply(self, settings: dict[str, Any]) -> None:
        for name, value in settings["features"].items():
            self._set(name, value)
        if settings["pixel_format"] is not None:
            self._set("PixelFormat", settings["pixel_format"])
        if settings["region"] is not None:
            x, y, width, height = settings["region"]
            self._try("OffsetX", "0")  # there is room for any size then
            self._try("OffsetY", "0")
            for name, value in (("Width", width), ("Height", height), ("OffsetX", x), ("OffsetY", y)):
                self._set(name, value)
        if settings["exposure_us"] is not None:
            self._try("ExposureAuto", "Off")
            self._try("ExposureMode", "Timed")
            self._expose(settings["exposure_us"])
        if settings["gain"] is not None:
            self._try("GainAuto", "Off")
            self._try("GainSelector", "All")
            self._amplify(settings["gain"])

    def _expose(self, exposure_us: float) -> None:
        """Set the exposure time under its name in this camera: that of SFNC 2, of GigE Vision, or of older cameras."""
        for name in ("ExposureTime", "ExposureTimeAbs"):
            if self._can_set(name):
                self._set(name, exposure_us)
                return
        base = self._nodes.GetNode("ExposureTimeBaseAbs") if self._nodes.Contains("ExposureTimeBaseAbs") else None
        self._set("ExposureTimeRaw", round(exposure_us / (1.0 if base is None else base.GetValue())))

    def _amplify(self, gain: float) -> None:
        """Set the gain, in dB; or in steps of the camera, if it has no other."""
        if self._can_set("Gain"):
            self._set("Gain", gain)
        elif gain != int(gain):
            raise Lost(f"the gain of this camera is a whole number (GainRaw), and camera.gain is {gain}")
        else:
            self._set("GainRaw", int(gain))

    def _can_set(self, name: str) -> bool:
        return bool(self._nodes.Contains(name) and genicam.IsWritable(self._nodes.GetNode(name)))

    def _try(self, name: str, text: str) -> None:
        if self._can_set(name):
            self._nodes.GetNode(name).FromString(text)

    def _set(self, name: str, value: object) -> None:
        if not self._nodes.Contains(name):
            raise Lost(f"the camera has no setting {name}")
        node = self._nodes.GetNode(name)
        if isinstance(value, bool) and not isinstance(node, pylon.BooleanParameter):
            raise Lost(f"{name} of the camera is not true or false; put words such as 'On' into quotes")
        try:
            node.FromString(str(value).lower() if isinstance(value, bool) else str(value))
        except genicam.GenericException as error:
            raise Lost(f"{name} of the camera cannot be set to {value}: {error}") from error
        if isinstance(value, (int, float)) and genicam.IsReadable(node):
            _require_kept(name, value, node.GetValue())

    def _check(self) -> None:
        if self._camera.IsCameraDeviceRemoved():
            raise Lost("the camera does not answer any more")


def _require_kept(name: str, value: float, found: Any) -> None:
    """Check what was read back. Cameras round times and gains to steps of their own."""
    step = _STEP * max(1.0, abs(value)) if isinstance(found, float) else 0
    if isinstance(found, (int, float)) and abs(found - value) > step:
        raise Lost(f"{name} of the camera was set to {value}, and it has {found}; write a value that it keeps")


def _state(info: Any) -> str:
    """Return whether a camera can be controlled, for people."""
    transport = pylon.TlFactory.GetInstance().CreateTl(info.GetDeviceClass())
    accessible, detail = transport.IsDeviceAccessibleInfo(info, _CONTROL)
    known = _STATES.get(detail, "not reachable")
    return _STATES[pylon.Accessibility_Ok] if accessible else known


def _pixels(result: Any) -> bytes:
    """Return the rows without their padding."""
    data = bytes(result.GetImageBuffer())
    padding = result.GetPaddingX()
    if not padding:
        return data
    row = len(data) // result.GetHeight()
    return b"".join(data[start : start + row - padding] for start in range(0, row * result.GetHeight(), row))
