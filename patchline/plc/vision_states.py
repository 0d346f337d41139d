"""What the register map means in the words of OPC 40100-1 (Machine Vision, part 1)."""

from __future__ import annotations

from enum import IntEnum

from patchline.plc.register_map import Code, GateState

SYSTEM_STATES = ("Preoperational", "Halted", "Error", "Operational")
AUTOMATIC_STATES = ("Initialized", "Ready", "SingleExecution", "ContinuousExecution")


class ResultState(IntEnum):
    """How the processing of a part ended. It is no verdict."""

    UNDEFINED = 0
    COMPLETED = 1
    PROCESSING = 2
    ABORTED = 3
    FAILED = 4


_ENDS = {
    Code.PASS: ResultState.COMPLETED,
    Code.REVIEW: ResultState.COMPLETED,
    Code.FAIL: ResultState.COMPLETED,
    Code.EXPIRED: ResultState.ABORTED,
    Code.ERROR: ResultState.FAILED,
    Code.NO_VERDICT: ResultState.ABORTED,
    Code.UNANNOUNCED: ResultState.ABORTED,
    Code.MISSED: ResultState.ABORTED,
    Code.OTHER_IMAGE: ResultState.ABORTED,
}


def states(version: int, state: int) -> tuple[str, str]:
    """Return the states of VisionStateMachine and AutomaticModeStateMachine for a header of the gate.

    Args:
        version: `version` of the header; 0 before the gate has written it.
        state: `state` of the header.
    """
    if not version:
        return "Preoperational", "Initialized"
    if state & (GateState.FAULT | GateState.BLIND):
        return "Error", "Initialized"
    if state & GateState.BUSY:
        return "Operational", "SingleExecution"
    return "Operational", "Ready" if state & GateState.READY else "Initialized"


def result_state(code: int) -> ResultState:
    """Return how the processing of a part ended, by the code of its result."""
    return _ENDS.get(Code(code), ResultState.UNDEFINED) if code in set(Code) else ResultState.UNDEFINED
