"""Imports between packages go one way, and each third-party library is imported by one file."""

import ast
import functools
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from patchline.protocol import optional_imports

# The packages from the lowest to the highest. A package imports only itself and packages that come earlier here.
ROOMS = [
    {"protocol"},
    {"config"},
    {"broker", "devices", "plc"},
    {"runtime", "inspection"},
    {"archive", "banks", "publisher", "gate", "tracing", "services"},
    {"models", "evaluation", "worker", "plant", "camera", "trial"},
    {"operations", "demo"},
    {"console"},
    {"cli"},
    {"__main__"},
]
# Each change of the archive's tables is a script of its own, as Alembic runs them.
CHANGES_OF_THE_ARCHIVE = {str(path) for path in Path("patchline/archive/migrations/versions").glob("v*.py")}
ONLY_INDEXES = {path for path in CHANGES_OF_THE_ARCHIVE if "import sqlalchemy" not in Path(path).read_text()}
NEIGHBOURS = {
    "pika": {"patchline/broker/rabbitmq.py"},
    "redis": {"patchline/worker/verdict_cache.py"},
    "faiss": {"patchline/inspection/search/exact_search.py"},
    "threadpoolctl": {"patchline/inspection/search/exact_search.py"},
    "openvino": {"patchline/devices/openvino_backbone.py"},
    "prometheus_client": {"patchline/runtime/metrics.py"},
    "inotify_simple": {"patchline/publisher/folder_events.py"},
    "av": {"patchline/camera/stream_host.py"},
    "gi": {"patchline/camera/aravis_host.py"},
    "pypylon": {"patchline/camera/pylon_host.py"},
    "yaml": {"patchline/config/loading.py"},
    "pymodbus": {"patchline/plc/modbus_client.py"},
    "snap7": {"patchline/plc/s7.py", "patchline/plant/s7_server.py"},
    "zxingcpp": {"patchline/camera/codes.py"},
    "PIL": {"patchline/inspection/image_header.py"},
    "rich": {"patchline/runtime/terminal.py"},
    "scipy": {"patchline/evaluation/intervals.py"},
    "matplotlib": {"patchline/demo/report.py"},
    "torch": {"patchline/models/networks.py"},
    "onnx": {"patchline/models/convert.py"},
    "nncf": {"patchline/models/quantize.py"},
    "opentelemetry": {"patchline/tracing/exporter.py"},
    "google": {"patchline/plc/sparkplug.py"},
    "paho": {"patchline/plc/mqtt.py"},
    "pycomm3": {"patchline/plc/ethernet_ip.py"},
    "asyncua": {f"patchline/plc/opcua_{part}.py" for part in ("client", "model", "server")}
    | {"patchline/plant/opcua_arrays.py"},
    "obstore": {"patchline/runtime/bucket.py"},
    "sqlalchemy": {
        f"patchline/archive/{name}.py"
        for name in ("database", "ledger_database", "period_table", "picture_table", "score_table", "shadow_table")
    }
    | CHANGES_OF_THE_ARCHIVE - ONLY_INDEXES,
    "pyarrow": {"patchline/archive/export.py"},
    "alembic": {f"patchline/archive/migrations/{name}.py" for name in ("__init__", "env")} | CHANGES_OF_THE_ARCHIVE,
    "cryptography": {"patchline/plc/opcua_security.py"},
    "starlette": {"patchline/console/web.py"},
    "uvicorn": {"patchline/console/server.py"},
    "jinja2": {"patchline/console/templates.py"},
    "werkzeug": {"patchline/console/uploads.py"},
    "reportlab": {"patchline/console/report_pdf.py"},
    "argon2": {"patchline/console/passwords.py"},
    "authlib": {"patchline/console/oidc.py"},
    "joserfc": {"patchline/console/oidc.py"},
    "requests": {"patchline/console/oidc.py"},
}
WORKER = {"pika", "redis", "faiss", "threadpoolctl", "openvino", "prometheus_client", "yaml", "PIL"}
ONE_ROOM = {"typer": "cli"}
MAX_LINES, MAX_FUNCTION_LINES = 400, 50
NODES = (ast.Import, ast.ImportFrom, ast.FunctionDef)


@functools.cache
def sources():
    # rglob does not follow the links to the folders at the top level.
    return sorted(path for path in Path("patchline").rglob("*.py")) + [
        path for folder in ("worker", "publisher", "models") for path in sorted(Path("patchline", folder).glob("*.py"))
    ]


def module_of(path):
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def nodes(path):
    """The nodes of a file that the tests look at."""
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, NODES)]


@functools.cache
def imports(path):
    """The modules that a file imports, at module level or in functions."""
    names = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def package_of(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "patchline" and len(parts) > 1 else None


@pytest.mark.parametrize("path", sources(), ids=str)
def test_a_package_imports_only_lower_packages(path):
    level = {package: number for number, packages in enumerate(ROOMS) for package in packages}
    importer = package_of(module_of(path))
    for module in imports(path):
        imported = package_of(module)
        if importer is not None and imported is not None and imported in level and imported != importer:
            assert level[imported] < level[importer], f"{path} imports {module}, which is not lower"


def test_every_package_has_a_level():
    assert {package_of(module_of(path)) for path in sources()} - {None} == set.union(*ROOMS)


def test_there_are_no_import_cycles():
    paths = {module_of(path): path for path in sources()}
    graph = {module: imports(path) & paths.keys() - {module} for module, path in paths.items()}
    visited, stack = set(), []

    def visit(module):
        assert module not in stack, f"import cycle: {' -> '.join([*stack, module])}"
        if module not in visited:
            stack.append(module)
            for imported in graph[module]:
                visit(imported)
            visited.add(stack.pop())

    for module in graph:
        visit(module)


@pytest.mark.parametrize("library", NEIGHBOURS)
def test_one_file_imports_a_third_party_library(library):
    importers = {str(path) for path in sources() if library in {module.split(".")[0] for module in imports(path)}}
    assert importers == NEIGHBOURS[library]


@pytest.mark.parametrize("library", ONE_ROOM)
def test_one_package_imports_a_library(library):
    packages = {package_of(module_of(path)) for path in sources() if library in imports(path)}
    assert packages == {ONE_ROOM[library]}


@pytest.mark.parametrize("path", sources(), ids=str)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert text.count("\n") <= MAX_LINES
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{path}: {node.name}"


def test_a_publisher_does_not_load_faiss_or_openvino():
    script = (
        "import patchline.publisher.process, patchline.publisher.folder_setup, patchline.runtime.connections, sys;"
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"faiss", "openvino", "cv2", "sklearn"} & set(loaded)


def test_a_worker_loads_nothing_that_it_does_not_need():
    script = (
        "import patchline.cli.main, patchline.worker.process, patchline.devices.openvino_backbone, sys;"
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in NEIGHBOURS if name in loaded} - {"cryptography"} == WORKER
    assert not {"greenlet", "openvino.tools.ovc", "openvino.frontend.tensorflow"} & set(loaded)


def test_what_was_left_out_of_an_import_can_be_imported_later(tmp_path, monkeypatch):
    (tmp_path / "left_out.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with optional_imports.without("left_out", "ast"):
        with pytest.raises(ImportError):
            importlib.import_module("left_out")
        assert importlib.import_module("ast") is ast, "it was there before"
    assert importlib.import_module("left_out").__file__ == str(tmp_path / "left_out.py")


def test_openvino_leaves_no_trace_of_telemetry_in_the_home_folder(tmp_path):
    command = [sys.executable, "-c", "import patchline.devices.openvino_backbone"]
    subprocess.run(command, env=os.environ | {"HOME": str(tmp_path), "CI": "false"}, check=True)
    assert list(tmp_path.iterdir()) == []


def test_the_architecture_page_draws_the_same_rooms():
    rows = re.findall(r"(?m)^\| (\d) \| `([\w/.]+)` \|.*\| (.+) \|$", Path("docs/architecture.md").read_text())
    drawn = {Path(room.rstrip("/")).stem: int(level) for level, room, _ in rows}
    assert drawn == {room: number for number, rooms in enumerate(ROOMS[:-1], 1) for room in rooms}
    for level, room, allowed in rows:
        assert allowed.split()[-1] in ("none", str(int(level) - 1)), room
