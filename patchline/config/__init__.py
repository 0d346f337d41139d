"""The settings of config.yaml: their sections, and how they are loaded."""

from patchline.config.base import Section
from patchline.config.camera import Camera, CameraRules
from patchline.config.console import Console, Oidc, Teach
from patchline.config.loading import PACKAGED, archive_url, broker_url, load, save, with_urls
from patchline.config.pictures import Pictures
from patchline.config.plc import BeltRules, Plc, PlcRules
from patchline.config.sections import (
    Archive,
    Banks,
    BitDepth,
    Broker,
    Category,
    Config,
    Gate,
    GateOverride,
    GateRules,
    Images,
    Paths,
    Publisher,
    Redis,
    Worker,
)

__all__ = [
    "PACKAGED",
    "Archive",
    "Banks",
    "BeltRules",
    "BitDepth",
    "Broker",
    "Camera",
    "CameraRules",
    "Category",
    "Config",
    "Console",
    "Gate",
    "GateOverride",
    "GateRules",
    "Images",
    "Oidc",
    "Paths",
    "Pictures",
    "Plc",
    "PlcRules",
    "Publisher",
    "Redis",
    "Section",
    "Teach",
    "Worker",
    "archive_url",
    "broker_url",
    "load",
    "save",
    "with_urls",
]
