"""A gate as an edge node of Sparkplug B: its state and results for the hosts of a plant (SCADA, historian, MES).

It tells, and moves nothing: the arm has an output of its own. Source: Sparkplug Specification 3.0, chapters 5 and 6
(sparkplug.eclipse.org).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from patchline.gate.mqtt_output import Report
from patchline.gate.outputs import OutputState
from patchline.plc.mqtt import MqttConnection, MqttError, Publication
from patchline.plc.sparkplug import NAMESPACE, DataType, Metric, Value, commands, encode
from patchline.protocol.gate_messages import Action, ActionRecord
from patchline.protocol.tls import Certificates

REBIRTH = "Node Control/Rebirth"
_TYPES = {
    "Gate/State": DataType.STRING,
    "Gate/Accepted": DataType.INT64,
    "Gate/Rejected": DataType.INT64,
    "Result/Job": DataType.STRING,
    "Result/Part": DataType.STRING,
    "Result/Category": DataType.STRING,
    "Result/Action": DataType.STRING,
    "Result/Because": DataType.STRING,
    "Result/Score": DataType.DOUBLE,
    "Result/Time": DataType.INT64,  # milliseconds since 1970
}
_RETRY_S = 5.0
_MAX_COMMANDS = 10  # at each step


class SparkplugNode:
    """Publishes NBIRTH, NDATA and NDEATH. No call raises, and none takes longer than the time limit.

    What happens while the broker is away is not sent later. The counters and the next NBIRTH say where things stand.

    Args:
        url: of the broker, see `MqttConnection`.
        group: the id of the group: the plant.
        node: the id of the node: the line and gate, such as `press-3-gate-1`.
        timeout_s: time to connect, and for the farewell.
        keep_alive_s: see `MqttConnection`. `step` must be called at least as often.
        certificates: for `mqtts`.
        clock: a monotonic clock in seconds.
        now_ms: the wall clock.

    Raises:
        SetupError: the url or a file cannot be used.
    """

    def __init__(
        self,
        url: str,
        group: str,
        node: str,
        timeout_s: float = 0.2,
        keep_alive_s: int = 5,
        certificates: Certificates | None = None,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._topics = {kind: f"{NAMESPACE}/{group}/{kind}/{node}" for kind in ("NBIRTH", "NDATA", "NDEATH", "NCMD")}
        self._timeout_s, self._clock, self._now_ms = timeout_s, clock, now_ms
        self._values: dict[str, Value | None] = dict.fromkeys(_TYPES)
        self._report = Report(clock)
        self._values.update({"Gate/State": self._report.state.value, "Gate/Accepted": 0, "Gate/Rejected": 0})
        # The number of a connection. A process that starts again takes another one than the last, without a file.
        self._birth = now_ms() // 1000 % 256
        self._sequence = 0
        self._connect_at = clock()
        self._connection = MqttConnection(
            url, f"sparkplug/{group}/{node}", [self._topics["NCMD"]], self._will, keep_alive_s, certificates, clock
        )

    def tell(self, state: OutputState) -> None:
        """Take what the gate tells its arm, see `Output`. `step` publishes it."""
        self._report.tell(state)

    def record(self, action: ActionRecord) -> None:
        """Publish what the arm has acknowledged."""
        counter = "Gate/Accepted" if action.action is Action.ACCEPT else "Gate/Rejected"
        self._update(
            {
                counter: int(self._values[counter] or 0) + 1,
                "Result/Job": action.job_id,
                "Result/Part": action.part_id,
                "Result/Category": action.category,
                "Result/Action": action.action.value,
                "Result/Because": action.because,
                "Result/Score": action.score,
                "Result/Time": action.acted_at,
            }
        )

    def step(self) -> None:
        """Connect if that is due, publish the state if it has changed, answer commands, and send a sign of life."""
        now = self._clock()
        if self._values["Gate/State"] != self._report.state.value:
            self._update({"Gate/State": self._report.state.value})
        if not self._connection.is_open and now < self._connect_at:
            return
        try:
            if self._connection.open(now + self._timeout_s):
                self._publish_birth()
            for _ in range(_MAX_COMMANDS):
                received = self._connection.receive(now)
                if received is None:
                    break
                self._obey(received.payload)
        except MqttError:
            self._connect_at = self._clock() + _RETRY_S

    def close(self) -> None:
        """Publish NDEATH and end the connection."""
        self._connection.close(self._death(), self._timeout_s)

    def _obey(self, payload: bytes) -> None:
        try:
            rebirth = commands(payload).get(REBIRTH, False)
        except ValueError:
            return  # anybody may have sent it
        if rebirth:
            self._publish_birth()

    def _update(self, values: dict[str, Value | None]) -> None:
        self._values.update(values)
        if self._connection.is_open:
            self._sequence = (self._sequence + 1) % 256
            try:
                self._publish("NDATA", _metrics(values))
            except MqttError:
                self._connect_at = self._clock() + _RETRY_S

    def _publish_birth(self) -> None:
        self._sequence = 0
        self._publish(
            "NBIRTH", [self._birth_metric(), Metric(REBIRTH, DataType.BOOLEAN, False), *_metrics(self._values)]
        )

    def _publish(self, kind: str, metrics: list[Metric]) -> None:
        payload = encode(metrics, self._now_ms(), self._sequence)
        self._connection.publish(Publication(self._topics[kind], payload, qos=0))

    def _will(self) -> Publication:
        self._birth = (self._birth + 1) % 256
        return self._death()

    def _death(self) -> Publication:
        return Publication(self._topics["NDEATH"], encode([self._birth_metric()], self._now_ms()))

    def _birth_metric(self) -> Metric:
        return Metric("bdSeq", DataType.INT64, self._birth)


def _metrics(values: dict[str, Value | None]) -> list[Metric]:
    return [Metric(name, _TYPES[name], value) for name, value in values.items()]
