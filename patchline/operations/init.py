"""A folder for a plant on one host: a commented configuration, the folders it names, and the deployment files."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from patchline import config
from patchline.banks.folder_objects import FolderObjects
from patchline.banks.versions import Versions
from patchline.protocol.errors import SetupError
from patchline.runtime import connections

_DEPLOY = config.PACKAGED.with_name("deploy")
_TEMPLATES = config.PACKAGED.with_name("plant")
_UNITS = (
    *(f"patchline-{process}@.service" for process in ("worker", "gate", "publisher", "camera", "mqtt")),
    "patchline-archive.service",
    "patchline-console.service",
    *(f"{drop_in}.conf" for drop_in in ("ascend", "gate-plc", "gate-low-port")),
)
# A plant with an archive keeps the pictures of its rejects. Without one, they would fill a queue.
_KEEP_PICTURES = ("decisions: []", "decisions: [fail, review, expired, error]")
# Banks that people teach and try out in the console are versions of a store. Others are served without it, too.
_STORE = "bank-store"
_HAS_STORE = ("store: null                 #", f"store: {_STORE}           #")
_LIKE = "new_categories_like: null"
_PUBLISHER_PORT, _GATE_PORT = 9110, 9120  # of the first line's metrics; further lines of this host count up from them
_FOLDERS = (
    "captured",
    "models",
    "faiss-index-precision",
    "spool",
    "gate-memory",
    "archive",
    "served-banks",
    "console",
    _STORE,
)


def init(folder: Path, line: str, category: str) -> list[Path]:
    """Write a plant's folder, or the files of one more line into the folder of a plant.

    Args:
        folder: of the plant; is created.
        line: the production line that the deployment files serve.
        category: the category that the configuration describes, and that the publisher of the line sends.

    Returns:
        The files, in the order in which people read them.

    Raises:
        SetupError: a file exists already, the path has characters that unit files or shells do not take as they are,
            or the folder cannot be written.
    """
    written: list[Path] = []
    try:
        plant = folder.resolve()
        if re.fullmatch(r"[A-Za-z0-9._/+@-]+", str(plant)) is None:
            raise SetupError(f"{plant}: unit files need a path of letters, digits and . _ / + @ -; name another folder")
        is_plant = (plant / "config.yaml").is_file()
        if is_plant:
            config.load(plant / "config.yaml").category(category)
        for name in (_captured(plant, line),) if is_plant else _FOLDERS:
            (plant / name).mkdir(parents=True, exist_ok=True)
        for name, content in (_line_files if is_plant else _plant_files)(plant, line, category).items():
            _write_new(plant / name, content)
            written.append(plant / name)
        (plant / f"gate-{line}.sh").chmod(0o755)
        if not is_plant:
            Versions(FolderObjects(plant / _STORE), _STORE, connections.now_ms).make()
    except (OSError, RuntimeError, UnicodeError) as error:  # RuntimeError: a loop of symbolic links
        for path in written:
            path.unlink(missing_ok=True)
        raise SetupError(f"{folder}: cannot be written ({error})") from error
    return [folder / path.relative_to(plant) for path in written]


def warnings(folder: Path) -> list[str]:
    """Return what keeps the written units from working on this host, if anything."""
    places = {"the plant": folder.resolve(), "Patchline": Path(sys.prefix)}
    hidden = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
    return [
        f"{name} is in {path}, which the units cannot see (ProtectHome, PrivateTmp); use /opt or /srv for systemd"
        for name, path in places.items()
        if any(path.is_relative_to(place) for place in hidden)
    ]


def _write_new(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError as error:
        raise SetupError(f"{path}: exists already; name a new folder or another line, or move the file away") from error


def _plant_files(plant: Path, line: str, category: str) -> Mapping[str, str]:
    """The contents of the files, by their paths in the plant's folder."""
    # The packaged configuration shows every setting; its last section, the categories, is the demo's and MVTec's.
    settings, _, _ = config.PACKAGED.read_text(encoding="utf-8").partition("categories:\n")
    for old, new in (_KEEP_PICTURES, _HAS_STORE, (_LIKE, _LIKE.replace("null", f'"{category}"'))):
        settings = settings.replace(old, new)
    return {
        "README.md": _filled("README.md", plant, line, category),
        "config.yaml": settings + _filled("category.yaml", plant, line, category),
        **_line_files(plant, line, category),
        **{f"deploy/systemd/{name}": _unit(name, plant) for name in _UNITS},
        **{f"deploy/{name}": _deployed(name, plant) for name in _monitoring()},
    }


def _line_files(plant: Path, line: str, category: str) -> Mapping[str, str]:
    return {
        f"publisher-{line}.env": _filled("publisher.env", plant, line, category),
        f"gate-{line}.sh": _filled("gate.sh", plant, line, category),
        f"gate-{line}.env": _filled("gate.env", plant, line, category),
    }


def _captured(plant: Path, line: str) -> str:
    """Return the name of the folder of a line's images: each line has its own."""
    return f"captured-{line}" if _number_of_lines(plant) else "captured"


def _number_of_lines(plant: Path) -> int:
    return len(list(plant.glob("publisher-*.env")))


def _filled(name: str, plant: Path, line: str, category: str) -> str:
    """A template with its placeholders replaced at once, so that no value is taken for a placeholder."""
    number = _number_of_lines(plant)
    values = {
        "{plant}": str(plant),
        "{line}": line,
        "{category}": category,
        "{captured}": _captured(plant, line),
        "{publisher_port}": str(_PUBLISHER_PORT + number),
        "{gate_port}": str(_GATE_PORT + number),
    }
    text = (_TEMPLATES / name).read_text(encoding="utf-8")
    return re.sub("|".join(values), lambda match: values[match[0]], text)


def _program() -> str:
    """The command of this environment, or this interpreter with the package if it has no command."""
    script = Path(sys.executable).with_name("patchline")
    return str(script) if script.exists() else shutil.which("patchline") or f"{sys.executable} -m patchline"


def _unit(name: str, plant: Path) -> str:
    """A unit file that runs the `patchline` of this environment in the plant's folder."""
    text = (_DEPLOY / "systemd" / name).read_text(encoding="utf-8")
    swaps = {
        "Documentation=file:///opt/patchline/docs/operations.md\n": "",
        "/opt/patchline/.venv/bin/patchline": _program(),
        "WorkingDirectory=/opt/patchline": f"WorkingDirectory={plant}",
        "/etc/patchline": str(plant),
        "/srv/patchline-banks": str(plant / _STORE),
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
