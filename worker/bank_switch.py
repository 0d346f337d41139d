"""Switches a running worker to the active versions of its memory banks, between two jobs.

The new bank is loaded beside the one that serves. A lane takes the inspector of a job once, so every job is judged by
one bank as a whole; the bank before is freed after the last job that uses it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog

from patchline.banks import reports
from patchline.banks.reports import Report
from patchline.banks.version_log import SHORT, State
from patchline.banks.versions import Versions
from patchline.inspection.inspector import Inspector
from patchline.inspection.search import exact_search
from patchline.protocol.errors import SetupError
from patchline.worker.bank_source import BankSource
from patchline.worker.metrics import Metrics
from patchline.worker.new_categories import NewCategories
from patchline.worker.shadow import Shadows
from patchline.worker.shadow_switch import ShadowSwitch
from patchline.worker.shared_exclusive_lock import SharedExclusiveLock

_log = structlog.get_logger(__name__)
_FIRST_RETRY_S, _LONGEST_RETRY_S = 5.0, 60.0
_NICER, _NICEST = 15, 19  # the thread, than the worker: the lanes go first


@dataclass
class _Failure:
    """Why a version cannot be served, and when to try again."""

    version: str
    reason: str
    retry_at: float
    pause_s: float = _FIRST_RETRY_S


@dataclass
class BankSwitch:
    """Looks at the store, and switches. A context manager: it works on a background thread until the end of the block.

    Attributes:
        source: loads the banks.
        versions: the store.
        inspectors: of the lanes, by category; an entry is replaced in one step.
        lock: held while golden images are inspected.
        metrics: the metrics.
        worker: the name of this worker in reports.
        poll_s: between two looks.
        now_ms: the wall clock.
        clock: returns seconds.
        shadows: of the lanes; None: no version judges beside that which serves.
        new: what the store has beside the categories of the configuration; None: it is not served.
    """

    source: BankSource
    versions: Versions
    inspectors: dict[str, Inspector]
    lock: SharedExclusiveLock
    metrics: Metrics
    worker: str
    poll_s: float
    now_ms: Callable[[], int]
    clock: Callable[[], float] = time.monotonic
    shadows: Shadows | None = None
    new: NewCategories | None = None
    _failures: dict[str, _Failure] = field(default_factory=dict)
    _unreadable: str | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _look: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        inspecting = partial(self.lock.shared, quiet=True)
        shadows = self.shadows
        self._shadow = (
            None if shadows is None else ShadowSwitch(self.source, shadows, inspecting, self._report, self.clock)
        )

    def __enter__(self) -> BankSwitch:
        self._read_at = self.now_ms() / 1000
        self.metrics.watch_bank_store(lambda: self._read_at)
        threading.Thread(target=self._run, name="banks", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._look.set()  # the thread is not waited for: a file system that has frozen holds it

    def look_now(self) -> None:
        """Have the thread look at the store at once."""
        self._look.set()

    def step(self) -> None:
        """Look at the store once, and switch each category whose active version is not served."""
        names, unreadable = list(self.inspectors), None
        if self.new is not None:
            try:
                names += self.new.names(names)
            except SetupError as error:
                unreadable = str(error)
        for name in names:
            try:
                state = self.versions.state(name)
            except SetupError as error:  # the store is away, or the log of this category is damaged
                unreadable = str(error)
            else:
                self._follow(name, state)
                if self._shadow is not None and name in self.inspectors:
                    self._shadow.follow(name, state)
        if unreadable is None:
            self._read_at = self.now_ms() / 1000
        if unreadable is not None and self._unreadable is None:
            _log.error("bank store cannot be read, serving the previous banks", reason=unreadable)
        elif unreadable is None and self._unreadable is not None:
            _log.info("bank store can be read again")
        self._unreadable = unreadable

    def _follow(self, name: str, state: State) -> None:
        """Serve the active version of a category, if it is not served and no attempt has failed just now."""
        failure, serves = self._failures.get(name), self.inspectors.get(name)
        if state.active is None or (serves is not None and state.active == serves.bank.digest):
            if failure is not None:
                del self._failures[name]
                self.metrics.set_bank_not_activated(name, False)
            return
        if failure is not None and failure.version == state.active and self.clock() < failure.retry_at:
            return
        try:
            self._switch(name, state)
        except SetupError as error:
            self._fail(name, state.active, str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the previous bank is served
            _log.exception("memory bank cannot be loaded", category=name)
            self._fail(name, state.active, f"{type(error).__name__}: {error}")

    def _switch(self, name: str, state: State) -> None:
        began, serves = self.clock(), self.inspectors.get(name)
        before = None if serves is None else serves.bank.digest
        if serves is None and self.new is not None:
            self.new.prepare(name)
        inspector = self.source.load_active(name, state, partial(self.lock.shared, quiet=True))
        self.metrics.set_bank(name, inspector.bank, self.source.reference(name, inspector))
        self.inspectors[name] = inspector
        if serves is None and self.new is not None:
            self.new.begin(name)
        self._failures.pop(name, None)
        self.metrics.set_bank_not_activated(name, False)
        self.metrics.bank_switched(name)
        versions = {"version": (state.active or "")[:SHORT], "before": (before or "")[:SHORT]}
        rows, seconds = inspector.bank.manifest.patches, round(self.clock() - began, 2)
        _log.info("memory bank switched", category=name, **versions, rows=rows, took_s=seconds)
        self._report(name, state.active or "", "serving", "")

    def _fail(self, name: str, version: str, reason: str) -> None:
        """Keep the previous bank, say why once, and try again later."""
        before = self._failures.get(name)
        pause_s = _FIRST_RETRY_S
        if before is not None and before.version == version:
            pause_s = min(_LONGEST_RETRY_S, before.pause_s * 2)
        self._failures[name] = _Failure(version, reason, self.clock() + pause_s, pause_s)
        self.metrics.set_bank_not_activated(name, True)
        if before is None or (before.version, before.reason) != (version, reason):
            _log.error("memory bank not activated, serving the one before", category=name, version=version, why=reason)
            self._report(name, version, "refused", reason)

    def _report(self, name: str, version: str, state: reports.State, reason: str) -> None:
        """Write into the audit log what happened here. A store that this worker may only read has the log of others."""
        report = Report(worker=self.worker, version=version, state=state, reason=reason[:500], when=self.now_ms())
        try:
            self.versions.report(name, reports.name_of(report), report.to_json())
        except SetupError as error:
            _log.warning("bank store does not take the report of this worker", category=name, reason=str(error))

    def _run(self) -> None:
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(_NICEST, nice + _NICER))  # never a better one, which may be refused
        exact_search.set_threads(1)
        while not self._stop.is_set():
            self._look.clear()
            self.step()
            self._look.wait(self.poll_s)
