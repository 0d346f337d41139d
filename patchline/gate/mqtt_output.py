"""An arm behind an MQTT broker. It hears of each act by topic, and answers on another one.

Topics, all below `patchline/LINE/`:

- `act`: one action as JSON, the line that the program of `--exec` reads.
- `ack`: the arm's answer, a JSON object with the `job_id`, or the bare job id. An object with an `error` is a fault.
- `gate/NAME`: the state of the gate NAME, retained, and its last will. While no gate of the line says `serving`, the
  arm rejects everything. Each gate has a topic of its own, so the will of a dead one never replaces the state of
  another that has taken over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from enum import StrEnum

from patchline.gate.outputs import OutputError, OutputState, acknowledges
from patchline.plc.mqtt import MqttConnection, MqttError, Publication
from patchline.protocol.gate_messages import ActionRecord
from patchline.protocol.tls import Certificates

_STANDBY_AFTER_S = 1.0
_RETRY_S = 1.0  # between attempts to connect: a dead broker must not take all the time
_MAX_LATE_ANSWERS = 100  # to acts that have failed, at each call


class ReportedState(StrEnum):
    """What a gate says of itself. `dead` is what the broker says of a gate that is gone."""

    SERVING = "serving"
    STANDBY = "standby"
    BLIND = "blind"
    FAULT = "fault"
    DEAD = "dead"


class Report:
    """The last that a gate has told. One that may not act tells nothing, so after a second it stands by."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.told = OutputState()
        self._clock = clock
        self._told_at = float("-inf")

    def tell(self, state: OutputState) -> None:
        """Take what the gate says now."""
        self.told, self._told_at = state, self._clock()

    @property
    def state(self) -> ReportedState:
        """The state now."""
        if self._clock() - self._told_at > _STANDBY_AFTER_S:
            return ReportedState.STANDBY
        if self.told.blind:
            return ReportedState.BLIND
        return ReportedState.FAULT if self.told.faulty else ReportedState.SERVING


class MqttOutput:
    """An `Output` over MQTT. An act is done when the arm has answered; that the broker has it says nothing.

    Nothing is kept while the broker is away: an act fails, and the gate repeats it. The state has a heartbeat that
    counts up while `tell` or `check` is called, so it stands if the gate hangs, is frozen or is gone.

    Args:
        url: of the broker, see `MqttConnection`.
        line: the line of the gate.
        instance: the name of the gate.
        timeout_s: time for an act, with its answer.
        heartbeat_s: period of the heartbeat, if `tell` is called more often.
        keep_alive_s: see `MqttConnection`. `check` must be called at least as often.
        certificates: for `mqtts`.
        clock: a monotonic clock in seconds.

    Raises:
        SetupError: the url or a file cannot be used.
    """

    def __init__(
        self,
        url: str,
        line: str,
        instance: str,
        timeout_s: float,
        heartbeat_s: float = 0.5,
        keep_alive_s: int = 2,
        certificates: Certificates | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._line, self._instance = line, instance
        self._act_topic = f"patchline/{line}/act"
        self._state_topic = f"patchline/{line}/gate/{instance}"
        self._timeout_s, self._heartbeat_s, self._clock = timeout_s, heartbeat_s, clock
        self._report = Report(clock)
        self._published: tuple[ReportedState, OutputState] | None = None
        self._heartbeat, self._heartbeat_at, self._connect_at = 0, clock(), clock()
        self._error = "there is no connection to the MQTT broker"
        self._connection = MqttConnection(
            url,
            f"patchline/{line}/{instance}",  # names have no slash: no two are alike
            [f"patchline/{line}/ack"],
            lambda: self._publication(ReportedState.DEAD),
            keep_alive_s,
            certificates,
            clock,
        )

    def act(self, action: ActionRecord) -> None:
        """See `Output`."""
        deadline = self._clock() + self._timeout_s
        try:
            self._open(deadline)
            self._connection.publish(Publication(self._act_topic, action.to_json()))
            while self._clock() < deadline:
                received = self._connection.receive(deadline)
                if received and not received.retained and acknowledges(received.payload, action.job_id):
                    return
        except MqttError as error:
            raise self._fail(error) from error
        raise OutputError(f"the arm has not answered within {self._timeout_s:g} s")

    def tell(self, state: OutputState) -> None:
        """See `Output`. Publishes the state when it has changed, and with each heartbeat."""
        self._report.tell(state)
        self.check()

    def check(self) -> None:
        """See `Output`. Connects if there is no connection, once a second."""
        now = self._clock()
        if not self._connection.is_open and now < self._connect_at:
            raise OutputError(self._error)
        try:
            self._open(now + self._timeout_s)
            for _ in range(_MAX_LATE_ANSWERS):
                if self._connection.receive(now) is None:
                    break
        except MqttError as error:
            raise self._fail(error) from error

    def close(self) -> None:
        """See `Output`. The state becomes `dead`."""
        self._connection.close(self._publication(ReportedState.DEAD))

    def _open(self, deadline: float) -> None:
        """Connect if there is no connection. Publish the state on a new one, if it has changed, and as a heartbeat."""
        is_new = self._connection.open(deadline)
        state = (self._report.state, self._report.told)
        if is_new or state != self._published or self._clock() >= self._heartbeat_at:
            self._heartbeat += 1
            self._heartbeat_at = self._clock() + self._heartbeat_s
            self._connection.publish(self._publication(state[0]))
            self._published = state

    def _fail(self, error: MqttError) -> OutputError:
        self._error, self._connect_at = str(error), self._clock() + _RETRY_S
        return OutputError(self._error)

    def _publication(self, state: ReportedState) -> Publication:
        body = {"line": self._line, "gate": self._instance, "state": state, "heartbeat": self._heartbeat}
        told = self._report.told
        body |= {"stop_line": told.stop_line, **told.counts}
        return Publication(self._state_topic, json.dumps(body).encode(), retain=True)
