"""An output that also tells the hosts of a plant what it does, over Sparkplug B."""

from __future__ import annotations

from typing import Protocol

from patchline.gate.outputs import Output, OutputState
from patchline.protocol.gate_messages import ActionRecord


class Node(Protocol):
    """What the output needs of `sparkplug_node.SparkplugNode`. No call raises."""

    def tell(self, state: OutputState) -> None: ...
    def record(self, action: ActionRecord) -> None: ...
    def step(self) -> None: ...
    def close(self) -> None: ...


class SparkplugOutput:
    """An arm whose acts and states are also published. What the node cannot send changes nothing for the arm.

    Args:
        output: the arm.
        node: what publishes.
    """

    def __init__(self, output: Output, node: Node) -> None:
        self._output = output
        self._node = node

    def act(self, action: ActionRecord) -> None:
        """See `Output`."""
        self._output.act(action)
        self._node.record(action)

    def tell(self, state: OutputState) -> None:
        """See `Output`."""
        self._node.tell(state)
        self._node.step()
        self._output.tell(state)

    def check(self) -> None:
        """See `Output`."""
        self._node.step()
        self._output.check()

    def close(self) -> None:
        """See `Output`."""
        self._node.close()
        self._output.close()
