"""Imports run one way, and one third-party library is used by one file."""

import ast
import subprocess
import sys
from pathlib import Path

OURS = {"bench", "broker", "commands", "gate", "inspection", "process", "publisher", "tools", "tracing", "worker"}
ALLOWED = {
    "broker": set(),
    "inspection": set(),
    "process": {"broker", "inspection"},
    "publisher": {"broker", "inspection", "process"},
    "worker": {"broker", "inspection", "process"},
    "gate": {"broker", "inspection", "process"},
    "tracing": {"broker", "inspection", "process"},
    "tools": {"broker", "inspection", "process"},
    "bench": {"broker", "inspection", "process", "tools", "worker"},
}
ONE_FILE = {
    "pika": ["broker/rabbitmq.py"],
    "faiss": ["bench/approximate.py", "inspection/search.py"],
    "threadpoolctl": ["inspection/search.py"],
    "openvino": [
        "bench/random_network.py",
        "bench/reference_way.py",
        "bench/run.py",
        "inspection/backbone_openvino.py",
    ],
    "yaml": ["inspection/config.py"],
    "PIL": ["inspection/decode.py"],
    "redis": ["worker/recent.py"],
    "prometheus_client": ["publisher/metrics.py", "worker/metrics.py"],
    "watchfiles": ["publisher/source.py"],
    "typer": [
        "commands/banks.py",
        "commands/dead_letters.py",
        "commands/line.py",
        "commands/machine.py",
        "commands/models.py",
        "commands/options.py",
        "patchline.py",
    ],
    "rich": ["tools/terminal.py"],
    "sklearn": ["tools/measures.py"],
    "matplotlib": ["bench/plot.py", "tools/demo_report.py"],
    "torch": ["tools/networks.py"],
    "onnx": ["tools/convert.py"],
    "nncf": ["tools/quantize.py"],
    "opentelemetry": ["tracing/exporter.py"],
}


def imported(path):
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module.split(".")[0])
    return names


def sources():
    return [path for package in OURS for path in Path(package).rglob("*.py")] + [Path("patchline.py")]


def test_imports_run_one_way():
    for path in sources():
        package = path.parts[0]
        if package in ALLOWED:
            wrong = imported(path) & OURS - ALLOWED[package] - {package}
            assert not wrong, f"{path} imports {wrong}"


def test_one_third_party_library_is_used_by_one_file():
    users = {library: sorted(str(path) for path in sources() if library in imported(path)) for library in ONE_FILE}
    assert users == ONE_FILE


def test_a_publisher_needs_neither_faiss_nor_openvino():
    script = "import publisher.publisher, publisher.source, process.line, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"faiss", "openvino", "cv2", "sklearn"} & set(loaded)
