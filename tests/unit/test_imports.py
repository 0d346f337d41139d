"""Imports run one way, and one third-party library is used by one file."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

# The rooms from the lowest to the highest: each may import those above it in this list, and nothing below.
ROOMS = [
    {"protocol"},
    {"config"},
    {"broker", "devices"},
    {"runtime", "inspection"},
    {"banks", "publisher", "gate", "tracing", "services"},
    {"models", "evaluation", "worker"},
    {"operations", "demo"},
    {"cli"},
    {"__main__"},
]
NEIGHBOURS = {
    "pika": {"patchline/broker/rabbitmq.py"},
    "redis": {"patchline/worker/verdict_cache.py"},
    "faiss": {"patchline/inspection/search/exact_search.py"},
    "threadpoolctl": {"patchline/inspection/search/exact_search.py"},
    "openvino": {"patchline/devices/openvino_backbone.py"},
    "prometheus_client": {"patchline/runtime/metrics.py"},
    "watchfiles": {"patchline/publisher/source.py"},
    "yaml": {"patchline/config.py"},
    "PIL": {"patchline/inspection/decode.py"},
    "rich": {"patchline/runtime/terminal.py"},
    "sklearn": {"patchline/evaluation/metrics.py"},
    "matplotlib": {"patchline/demo/report.py"},
    "torch": {"patchline/models/networks.py"},
    "onnx": {"patchline/models/convert.py"},
    "nncf": {"patchline/models/quantize.py"},
    "opentelemetry": {"patchline/tracing/exporter.py"},
}
ONE_ROOM = {"typer": "cli"}
MOST_LINES, MOST_LINES_OF_A_FUNCTION = 400, 50


def sources():
    return sorted(path for path in Path("patchline").rglob("*.py")) + [
        path for folder in ("worker", "publisher", "models") for path in sorted(Path("patchline", folder).glob("*.py"))
    ]


def module_of(path):
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    """The modules that a file imports, at its top or inside of its functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def room_of(module):
    parts = module.split(".")
    return parts[1] if parts[0] == "patchline" and len(parts) > 1 else None


@pytest.mark.parametrize("path", sources(), ids=str)
def test_imports_run_one_way_from_room_to_room(path):
    level = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
    here = room_of(module_of(path))
    for module in imports(path):
        there = room_of(module)
        if here is not None and there is not None and there in level and there != here:
            assert level[there] < level[here], f"{path} imports {module}, which stands above it"


def test_every_room_has_its_place():
    assert {room_of(module_of(path)) for path in sources()} - {None} == set.union(*ROOMS)


def test_no_module_imports_itself_by_a_detour():
    known = {module_of(path): path for path in sources()}
    graph = {module: imports(path) & known.keys() - {module} for module, path in known.items()}
    done, under_way = set(), []

    def visit(module):
        assert module not in under_way, f"a circle: {' -> '.join([*under_way, module])}"
        if module not in done:
            under_way.append(module)
            for other in graph[module]:
                visit(other)
            done.add(under_way.pop())

    for module in graph:
        visit(module)


@pytest.mark.parametrize("library", NEIGHBOURS)
def test_a_third_party_library_is_used_by_one_file(library):
    users = {str(path) for path in sources() if library in {module.split(".")[0] for module in imports(path)}}
    assert users == NEIGHBOURS[library]


@pytest.mark.parametrize("library", ONE_ROOM)
def test_a_library_of_one_room_stays_there(library):
    rooms = {room_of(module_of(path)) for path in sources() if library in imports(path)}
    assert rooms == {ONE_ROOM[library]}


@pytest.mark.parametrize("path", sources(), ids=str)
def test_files_and_functions_fit_on_a_screen_or_two(path):
    text = path.read_text()
    assert text.count("\n") <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < MOST_LINES_OF_A_FUNCTION, f"{path}: {node.name}"


def test_a_publisher_needs_neither_faiss_nor_openvino():
    script = (
        "import patchline.publisher.process, patchline.publisher.source, patchline.runtime.connections, sys;"
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"faiss", "openvino", "cv2", "sklearn"} & set(loaded)
