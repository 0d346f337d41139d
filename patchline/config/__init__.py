"""The settings of config.yaml: their sections, and how they are loaded."""

from patchline.config.loading import PACKAGED, broker_url, load, save, with_urls
from patchline.config.sections import (
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
    Section,
    Worker,
)

__all__ = [
    "PACKAGED",
    "BitDepth",
    "Broker",
    "Category",
    "Config",
    "Gate",
    "GateOverride",
    "GateRules",
    "Images",
    "Paths",
    "Publisher",
    "Redis",
    "Section",
    "Worker",
    "broker_url",
    "load",
    "save",
    "with_urls",
]
