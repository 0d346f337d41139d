"""The PLC of a line triggers its camera: each part that it numbers is a trigger, with its number and encoder count.

The PLC is polled. A part that may have moved on since its trigger is announced, and has no image.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import structlog

from patchline import config
from patchline.camera.metrics import PlcMetrics
from patchline.camera.triggers import Objection, Sighting, Trigger
from patchline.plc import connecting, encoder
from patchline.plc.pulse import Pulse
from patchline.plc.register_map import NO_COUNT
from patchline.plc.station import Trigger as PlcTrigger
from patchline.plc.trigger_reader import TriggerReader, TriggerReport
from patchline.plc.words import PlcError
from patchline.protocol.errors import SetupError

_log = structlog.get_logger(__name__)
_STANDS = "its heartbeat stands: it does not run its program"


@dataclass(frozen=True)
class Rules:
    """Which parts may be photographed.

    Attributes:
        category: that of the camera's parts.
        codes: the category of each code of the PLC's products.
        late_counts: a part that has moved by more encoder counts since its trigger has no image; None: see `late_ms`.
    """

    category: str
    codes: dict[int, str]
    late_counts: int | None = None


def open_reader(address: str, rules: config.PlcRules) -> TriggerReader:
    """Return what reads the triggers of the PLC at an address. It connects at the first use.

    Raises:
        SetupError: the address is not valid, or the package of its protocol is not installed.
    """
    if address.partition(":")[0].endswith("-server"):
        raise SetupError(f"--triggers {address}: the camera reads a PLC, and serves none; name the PLC, as modbus:HOST")
    return TriggerReader(connecting.open_memory(address, rules), connecting.layout(rules), time.monotonic)


class PlcTriggers:
    """Turns the reports of a PLC into triggers.

    Args:
        reader: reads the PLC.
        rules: see the class.
        metrics: of the PLC.
        clock: a monotonic clock in seconds.
    """

    def __init__(
        self, reader: TriggerReader, rules: Rules, metrics: PlcMetrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._reader, self._rules, self._metrics, self._clock = reader, rules, metrics, clock
        self._pulse = Pulse()
        self._is_silent: bool | None = None  # not known yet
        metrics.silent(True)

    def step(self) -> list[Sighting]:
        """Return the parts that were triggered since the last call, oldest first."""
        began = self._clock()
        try:
            report = self._reader.poll()
        except PlcError as error:
            self._fail(str(error))
            return []
        since = self._pulse.heard_until  # all earlier triggers were read then
        if report.failure is None:
            self._pulse.on_report(report.heartbeat, began)
            self._say(_STANDS if self._pulse.is_silent else None)
        else:
            self._fail(report.failure)
        self._tell_what_is_lost(report)
        last = len(report.triggers) - 1
        return [
            Sighting(_trigger(found), since, self._objection(found, report, number == last))
            for number, found in enumerate(report.triggers)
            if found is not None
        ]

    def run(self, interval_s: float, put: Callable[[Sighting | None], None], stop: threading.Event) -> None:
        """Call `put` for each part on a background thread until `stop` is set, and with None at the end."""

        def poll() -> None:
            try:
                with closing(self._reader):
                    while not stop.wait(interval_s):
                        for sighting in self.step():
                            put(sighting)
            finally:
                put(None)

        threading.Thread(target=poll, name="triggers", daemon=True).start()

    def _objection(self, found: PlcTrigger, report: TriggerReport, is_last: bool) -> Objection | None:
        code = found.category or report.category
        if code and self._rules.codes.get(code) != self._rules.category:
            product = self._rules.codes.get(code, "one that plc.categories does not have")
            return Objection("other_product", f"the PLC says product {code} ({product}), not {self._rules.category}")
        if not is_last or report.failure is not None:
            return Objection("late_trigger", "the PLC had triggered another part before this one was seen")
        limit = self._rules.late_counts
        if limit is None:
            return None
        if NO_COUNT in (found.count, report.count):
            return Objection("late_trigger", "the PLC gives no encoder count, and camera.trigger_late_counts is set")
        moved = encoder.difference(report.count, found.count)
        if abs(moved) > limit:
            reason = f"the part had moved by {moved} counts when its trigger was seen"
            return Objection("late_trigger", f"{reason}, and camera.trigger_late_counts is {limit}")
        return None

    def _tell_what_is_lost(self, report: TriggerReport) -> None:
        lost = report.triggers.count(None)
        if lost:
            advice = "raise plc.slots here and in the PLC's program"
            _log.error("triggers were overwritten before they were read", triggers=lost, advice=advice)
        if report.restarted:
            _log.error("the PLC counts its triggers anew, some may not have been read")
        self._metrics.unread(lost, report.restarted)

    def _fail(self, reason: str) -> None:
        self._pulse.on_failure()
        self._say(reason)

    def _say(self, silence: str | None) -> None:
        """Log once that the PLC gives no triggers, and that it does."""
        is_silent = silence is not None
        self._metrics.silent(is_silent)
        if is_silent and not self._is_silent:
            _log.error("the PLC gives no triggers", reason=silence)
        elif not is_silent and self._is_silent is not False:
            _log.info("the PLC is read, its parts are triggers")
        self._is_silent = is_silent


def _trigger(found: PlcTrigger) -> Trigger:
    return Trigger(number=found.number, encoder_count=None if found.count == NO_COUNT else found.count)
