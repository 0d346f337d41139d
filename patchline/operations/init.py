"""A folder for a plant on one host: a commented configuration, the folders it names, and the deployment files."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from patchline import config
from patchline.protocol.errors import SetupError

_DEPLOY = config.PACKAGED.with_name("deploy")
_TEMPLATES = config.PACKAGED.with_name("plant")
_UNITS = ("patchline-worker@.service", "patchline-gate@.service", "patchline-publisher@.service", "ascend.conf")
_FOLDERS = ("captured", "models", "faiss-index-precision", "spool", "gate-memory")


def init(folder: Path, line: str, category: str) -> list[Path]:
    """Write a plant's folder.

    Args:
        folder: is created; must not hold a file of the same name yet.
        line: the production line that the deployment files serve.
        category: the category that the configuration describes.

    Returns:
        The files, in the order in which people read them.

    Raises:
        SetupError: a file is there already, the path has spaces, or the folder cannot be written.
    """
    plant = folder.resolve()
    if re.search(r"[\s%]", str(plant)):
        raise SetupError(f"{plant}: unit files need a path without spaces and percent signs; name another folder")
    files = _files(plant, line, category)
    existing = [name for name in files if (plant / name).exists()]
    if existing:
        raise SetupError(f"{plant / existing[0]}: exists already; name a new folder, or move the file away")
    try:
        for name in _FOLDERS:
            (plant / name).mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (plant / name).parent.mkdir(parents=True, exist_ok=True)
            (plant / name).write_text(content, encoding="utf-8")
        (plant / f"gate-{line}.sh").chmod(0o755)
    except OSError as error:
        raise SetupError(f"{error.filename}: cannot be written ({error.strerror})") from error
    return [folder / name for name in files]


def _files(plant: Path, line: str, category: str) -> Mapping[str, str]:
    """The contents of the files, by their paths in the plant's folder."""

    def filled(name: str) -> str:
        text = (_TEMPLATES / name).read_text(encoding="utf-8")
        return text.replace("{plant}", str(plant)).replace("{line}", line).replace("{category}", category)

    # The packaged configuration shows every setting; its last section, the categories, is the demo's and MVTec's.
    settings, _, _ = config.PACKAGED.read_text(encoding="utf-8").partition("categories:\n")
    return {
        "README.md": filled("README.md"),
        "config.yaml": settings + filled("category.yaml"),
        f"publisher-{line}.env": filled("publisher.env"),
        f"gate-{line}.sh": filled("gate.sh"),
        **{f"deploy/systemd/{name}": _unit(name, plant) for name in _UNITS},
        **{f"deploy/{name}": _deployed(name, plant) for name in _monitoring()},
    }


def _unit(name: str, plant: Path) -> str:
    """A unit file that runs the `patchline` of this environment in the plant's folder."""
    text = (_DEPLOY / "systemd" / name).read_text(encoding="utf-8")
    program = Path(sys.executable).with_name("patchline")
    swaps = {
        "Documentation=file:///opt/patchline/docs/operations.md\n": "",
        "/opt/patchline/.venv/bin/patchline": str(program),
        "WorkingDirectory=/opt/patchline": f"WorkingDirectory={plant}",
        "/etc/patchline": str(plant),
    }
    for old, new in swaps.items():
        text = text.replace(old, new)
    return text


def _monitoring() -> list[str]:
    files = [*_DEPLOY.glob("prometheus/patchline.rules.yml"), *_DEPLOY.glob("prometheus/prometheus.yml")]
    return [str(file.relative_to(_DEPLOY)) for file in [*files, *sorted(_DEPLOY.glob("grafana/*/**/*.*"))]]


def _deployed(name: str, plant: Path) -> str:
    """A file for Prometheus or Grafana, with the paths and addresses of one host."""
    text = (_DEPLOY / name).read_text(encoding="utf-8")
    dashboards = f"{plant}/deploy/grafana/dashboards"
    return text.replace("/etc/grafana/patchline", dashboards).replace("http://prometheus:9090", "http://127.0.0.1:9090")
