"""A PLC as the output of a gate: results by part number, and a heartbeat that its watchdog follows."""

from __future__ import annotations

import math
from collections.abc import Callable

from patchline.gate.decide import NO_VERDICT
from patchline.gate.outputs import OutputError, OutputState
from patchline.gate.tracker import MISSED, OTHER_IMAGE, UNANNOUNCED
from patchline.plc import register_map as registers
from patchline.plc.register_map import Code, GateState
from patchline.plc.station import Result, Station
from patchline.plc.words import PlcError
from patchline.protocol.gate_messages import Action, ActionRecord
from patchline.protocol.messages import Decision

_CODES = {
    Decision.PASS: Code.PASS,
    Decision.REVIEW: Code.REVIEW,
    Decision.FAIL: Code.FAIL,
    Decision.EXPIRED: Code.EXPIRED,
    Decision.ERROR: Code.ERROR,
    NO_VERDICT: Code.NO_VERDICT,
    UNANNOUNCED: Code.UNANNOUNCED,
    MISSED: Code.MISSED,
    OTHER_IMAGE: Code.OTHER_IMAGE,
}


class PlcOutput:
    """Writes each action into the slot of its part. It keeps the contract of `Output`.

    Args:
        station: the PLC.
        heartbeat_s: period of the heartbeat.
        distance: encoder counts from the trigger to the arm; None: the PLC knows.
        clock: a monotonic clock in seconds.
    """

    def __init__(self, station: Station, heartbeat_s: float, distance: int | None, clock: Callable[[], float]) -> None:
        self._station = station
        self._heartbeat_s = heartbeat_s
        self._distance = distance
        self._clock = clock
        self._beat_at = float("-inf")
        self._told: OutputState | None = None
        self._error: str | None = None

    def act(self, action: ActionRecord) -> None:
        """See `Output`."""
        if action.stale:
            return  # the PLC has rejected the part; its slot may belong to a later one
        accepted = action.action is Action.ACCEPT
        if action.number is None:
            if not accepted:
                return  # the PLC rejects each part that it has no result for
            advice = "its publisher must send the number by which the PLC knows the part"
            raise OutputError(f"part {action.part_id} has no number: {advice}")
        result = registers.Result.ACCEPT if accepted else registers.Result.REJECT
        score = math.nan if action.score is None else action.score
        code = _CODES.get(action.because, Code.OTHER)
        try:
            self._station.write_result(Result(action.number, result, code, score, self._count(action)))
        except PlcError as error:
            raise OutputError(str(error)) from error

    def tell(self, state: OutputState) -> None:
        """See `Output`. Writes the header when there is something new, and once a period."""
        now = self._clock()
        changed = (state != self._told or self._station.owes_answer) and self._error is None
        if now >= self._beat_at + self._heartbeat_s:
            self._station.resume()
        if now >= self._beat_at or changed:
            self._beat_at = now + self._heartbeat_s  # also after an error: a dead link must not take all the time
            self._beat(state)
        if self._error is not None:
            raise OutputError(self._error)

    def _beat(self, state: OutputState) -> None:
        try:
            self._station.beat(_bits(state), state.counts)
        except PlcError as error:
            self._error = str(error)
        else:
            self._told, self._error = state, None

    def check(self) -> None:
        """See `Output`. The heartbeat is the check."""

    def close(self) -> None:
        """See `Output`."""
        self._station.close()

    def _count(self, action: ActionRecord) -> int:
        if action.encoder_count is None or self._distance is None:
            return registers.NO_COUNT
        return (action.encoder_count + self._distance + 2**31) % 2**32 - 2**31  # the encoder wraps


def _bits(state: OutputState) -> GateState:
    bits = GateState(0)
    for wanted, bit in (
        (not state.blind and not state.faulty, GateState.READY),
        (state.blind, GateState.BLIND),
        (state.busy, GateState.BUSY),
        (state.faulty, GateState.FAULT),
        (state.stop_line, GateState.STOP_LINE),
    ):
        bits |= bit if wanted else GateState(0)
    return bits
