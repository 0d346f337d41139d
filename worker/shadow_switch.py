"""Loads the shadow that the store names, beside the bank that serves, and lets it go when it ends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import structlog

from patchline.banks import reports
from patchline.banks.version_log import SHORT, Shadow, State
from patchline.protocol.errors import SetupError
from patchline.worker.bank_source import BankSource
from patchline.worker.shadow import ShadowBank, Shadows

_log = structlog.get_logger(__name__)
_RETRY_S = 60.0

Report = Callable[[str, str, reports.State, str], None]  # category, version, state, reason


@dataclass
class ShadowSwitch:
    """Follows the shadows of the store, one look after the other.

    Attributes:
        source: loads the banks.
        shadows: of the lanes.
        inspecting: its context manager encloses the inspection of golden images.
        report: writes into the audit log.
        clock: returns seconds.
    """

    source: BankSource
    shadows: Shadows
    inspecting: Callable[[], AbstractContextManager[None]]
    report: Report
    clock: Callable[[], float]
    _failed: dict[str, tuple[str, float]] = field(default_factory=dict)  # version, and when to try again

    def follow(self, name: str, state: State) -> None:
        """Load the shadow of a category, or let it go. Whatever fails, the bank that serves goes on."""
        wanted, loaded = state.shadow, self.shadows.get(name)
        if wanted is None:
            if loaded is not None:
                self.shadows.set(name, None)
                _log.info("shadow bank ended", category=name, version=loaded.version[:SHORT])
            if self._failed.pop(name, None) is not None:
                self.shadows.metrics.not_loaded(name, False)
            return
        if loaded is not None and loaded.version == wanted.version:
            if loaded.share != wanted.share:
                self.shadows.set(name, ShadowBank(loaded.inspector, wanted.version, wanted.share))
            return
        version, retry_at = self._failed.get(name, ("", 0.0))
        if version == wanted.version and self.clock() < retry_at:
            return
        self.shadows.set(name, None)  # that of another version
        try:
            self._load(name, wanted, state)
        except SetupError as error:
            self._fail(name, wanted.version, str(error))
        except Exception as error:  # noqa: BLE001 - whatever it is, the bank that serves goes on
            _log.exception("shadow bank cannot be loaded", category=name)
            self._fail(name, wanted.version, f"{type(error).__name__}: {error}")

    def _load(self, name: str, wanted: Shadow, state: State) -> None:
        record = state.published_as(wanted.version)
        if self.source.copies is None or record is None:
            raise SetupError(f"version {wanted.version[:SHORT]} of {name} was made a shadow, but never published")
        folder = self.source.copies.copy(name, record)
        inspector = self.source.loader.load_folder(name, folder, self.inspecting)
        self._failed.pop(name, None)
        self.shadows.metrics.not_loaded(name, False)
        self.shadows.set(name, ShadowBank(inspector, wanted.version, wanted.share))
        _log.info("shadow bank judges, too", category=name, version=wanted.version[:SHORT], share=wanted.share)
        self.report(name, wanted.version, "shadow", "")

    def _fail(self, name: str, version: str, reason: str) -> None:
        """Go on without the shadow, say why once, and try again later."""
        is_new = self._failed.get(name, ("", 0.0))[0] != version
        self._failed[name] = (version, self.clock() + _RETRY_S)
        self.shadows.metrics.not_loaded(name, True)
        if is_new:
            _log.error("shadow bank not loaded, judging without it", category=name, version=version, why=reason)
            self.report(name, version, "shadow refused", reason)
