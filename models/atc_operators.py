"""Hold an ONNX graph against what the ATC of a CANN release reads. The table is data: atc_operators.json."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from patchline.models.onnx_graph import Graph, Node
from patchline.protocol.errors import SetupError

DEFAULT_CANN = "5.0.4"  # that of the reference application
_TABLE = Path(__file__).with_suffix(".json")
_CONSTANT_INPUTS = {"Reshape": (1,), "Resize": (1, 2, 3), "Clip": (1, 2)}  # otherwise a shape or a size is computed
_COMPUTED_SHAPES = {"Shape", "Squeeze"}


@dataclass(frozen=True)
class Release:
    """What one CANN release reads: versions of ONNX, and the lowest and highest opset by operator."""

    cann: str
    ir_version: int
    opsets: tuple[int, int]
    operators: dict[str, tuple[int, int]]


@functools.cache
def releases() -> dict[str, Release]:
    """The releases of the table."""
    table = json.loads(_TABLE.read_bytes())
    return {
        cann: Release(
            cann,
            facts["ir_version"],
            tuple(facts["opsets"]),
            {name: (low, high) for name, (low, high, _) in table["operators"][facts["operators"]]["opsets"].items()},
        )
        for cann, facts in table["releases"].items()
    }


def release(cann: str) -> Release:
    """A release of the table.

    Raises:
        SetupError: the table does not have it.
    """
    if cann not in releases():
        raise SetupError(f"CANN {cann} is not in the table of operators; it has {', '.join(releases())}")
    return releases()[cann]


def problems(graph: Graph, release: Release) -> Iterator[str]:
    """What ATC would not read, or would read as a model with dynamic shapes. Empty if there is nothing."""
    low, high = release.opsets
    if not low <= graph.opset <= high:
        yield f"opset {graph.opset} is not one of {low} to {high}"
    if graph.ir_version > release.ir_version:
        yield f"IR version {graph.ir_version} is above {release.ir_version}"
    for value in (*graph.inputs, *graph.outputs):
        if None in value.shape:
            yield f"{value.name} has a dynamic shape"
    yield from dict.fromkeys(text for node in graph.nodes for text in _problems(node, graph, release))


def require_readable(name: str, graph: Graph, release: Release) -> None:
    """Check that ATC reads a model.

    Raises:
        SetupError: it does not; the text names the operators.
    """
    found = list(problems(graph, release))
    if found:
        raise SetupError(f"{name}: the ATC of CANN {release.cann} cannot read it: {'; '.join(found)}")


def _problems(node: Node, graph: Graph, release: Release) -> Iterator[str]:
    low, high = release.operators.get(node.op, (0, -1))
    if node.domain or node.op not in release.operators:
        yield f"operator {node.op} is not in the table"
    elif not low <= graph.opset <= high:
        yield f"operator {node.op} is registered for opset {low} to {high} only"
    if node.op in _COMPUTED_SHAPES:
        yield f"operator {node.op} computes a shape"
    computed = [node.inputs[index] for index in _CONSTANT_INPUTS.get(node.op, ()) if index < len(node.inputs)]
    if any(name and name not in graph.constants for name in computed):
        yield f"operator {node.op} has computed parameters"
