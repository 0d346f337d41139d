"""How the cameras of lines are set, and how long to wait for their frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from patchline.config.base import Count, Positive, Section
from patchline.protocol import messages

Pixels = Annotated[int, Field(ge=0, le=65_535)]
FeatureName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$")]

_STUCK_S = 20.0  # opening takes up to 15 s
_SET_TWICE = {  # the names of GenICam, also those of older cameras
    "exposure_us": {"ExposureTime", "ExposureTimeAbs", "ExposureTimeRaw"},
    "gain": {"Gain", "GainAbs", "GainRaw"},
    "pixel_format": {"PixelFormat"},
    "region": {"Width", "Height", "OffsetX", "OffsetY"},
}


class CameraRules(Section):
    """What the camera of a line needs. None leaves a setting of the camera as it is.

    Attributes:
        frame_timeout_ms: from the trigger to the frame. Then the part has no image.
        encoding: of the images: png, jpeg, or raw (PGM or PPM).
        jpeg_quality: of jpeg.
        exposure_us: exposure time.
        gain: in the unit of the camera, mostly dB.
        pixel_format: its name in the Pixel Format Naming Convention, such as Mono12.
        region: x, y, width and height of the part of the sensor that is read.
        features: other settings by their names in GenICam, in the order in which they are set. They come first.
        latency_ms: of rtsp and v4l2: the age of a picture when it comes, at most, from the light to this host. They
            need it.
        part_code: `optional` makes the Data Matrix or QR code in an image the id of its part, if there is exactly one;
            `required` takes no other image.
        reopen_max_s: longest pause between two attempts to open a camera that is lost.
        system_python: for aravis: a Python that has Debian's packages python3-gi and gir1.2-aravis-0.8.
        trigger_late_ms: a part that may have been triggered longer ago when its camera is triggered has no image.
        trigger_late_counts: a part that has moved by more counts of the encoder has no image; None: the time decides.
        trigger_topic: messages on it trigger the camera, with `--triggers mqtt:`. None: patchline/LINE/trigger.
        stuck_s: a call to a camera that does not return in this time is given up, and the camera opened anew. None:
            frame_timeout_ms and 20 s.
    """

    frame_timeout_ms: Annotated[int, Field(ge=10, le=60_000)] = 250
    encoding: Literal["png", "jpeg", "raw"] = "png"
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 95
    exposure_us: Positive | None = None
    gain: Annotated[float, Field(ge=0)] | None = None
    pixel_format: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}$")] | None = None
    region: Annotated[tuple[Pixels, Pixels, Count, Count], Field(strict=False)] | None = None
    features: dict[FeatureName, bool | int | float | str] = Field(default_factory=dict)
    latency_ms: Annotated[int, Field(ge=0, le=30_000)] | None = None
    part_code: Literal["none", "optional", "required"] = "none"
    reopen_max_s: Positive = 5.0
    system_python: Annotated[Path, Field(strict=False)] = Path("/usr/bin/python3")
    trigger_late_ms: Annotated[int, Field(ge=10, le=60_000)] = 100
    trigger_late_counts: Count | None = None
    trigger_topic: Annotated[str, Field(pattern=r"^[^+#$\x00-\x1f][^+#\x00-\x1f]{0,200}$")] | None = None
    stuck_s: Annotated[float, Field(ge=5)] | None = None

    @pydantic.model_validator(mode="after")
    def _settings_agree(self) -> CameraRules:
        """Check that no setting makes another one pointless."""
        if self.stuck_s is not None and self.stuck_s * 1000 <= self.frame_timeout_ms:
            raise ValueError(
                f"stuck_s {self.stuck_s:g} is not above frame_timeout_ms {self.frame_timeout_ms}: a camera that waits "
                "for a frame would be given up"
            )
        if self.latency_ms is not None and self.latency_ms >= self.frame_timeout_ms:
            raise ValueError(
                f"latency_ms {self.latency_ms} is not below frame_timeout_ms {self.frame_timeout_ms}: no picture would "
                "come in time"
            )
        for name, features in _SET_TWICE.items():
            twice = features & self.features.keys()
            if twice and getattr(self, name) is not None:
                raise ValueError(f"features sets {min(twice)}, and {name} sets it again; leave one of them out")
        return self

    @property
    def stuck_limit_s(self) -> float:
        """See `stuck_s`."""
        return self.stuck_s or _STUCK_S + self.frame_timeout_ms / 1000

    def of_device(self) -> dict[str, Any]:
        """Return what is set in the camera itself, as JSON."""
        return self.model_dump(include={"features", "pixel_format", "region", "exposure_us", "gain"})


class Camera(CameraRules):
    """The cameras. `lines` overrides any key for one line."""

    lines: dict[messages.Name, dict[str, object]] = Field(default_factory=dict)

    @pydantic.model_validator(mode="after")
    def _lines_are_valid(self) -> Camera:
        for line in self.lines:
            try:
                self.rules(line)
            except pydantic.ValidationError as error:
                first = error.errors(include_url=False)[0]
                key = ".".join(("lines", line, *map(str, first["loc"])))
                raise ValueError(f"{key}: {first['msg'].removeprefix('Value error, ')}") from None
        return self

    def rules(self, line: str) -> CameraRules:
        """Return the rules of a line."""
        values = self.model_dump(include=set(CameraRules.model_fields))
        return CameraRules.model_validate(values | self.lines.get(line, {}))
