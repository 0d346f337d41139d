"""Where the banks of a worker come from: `paths.memory_banks`, or the active versions of the shared store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from patchline import config
from patchline.banks import fitted, serving
from patchline.banks.served_banks import ServedBanks
from patchline.banks.version_log import SHORT, State
from patchline.inspection.inspector import Inspector
from patchline.protocol.errors import SetupError
from patchline.worker import drift

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class BankSource:
    """Loads the banks of a worker.

    Attributes:
        loader: loads a bank from a folder, and checks it.
        copies: the copies of the store's versions on this host; None if there is no store.
        folders: where the bank of each category was loaded from.
    """

    loader: serving.Loader
    copies: ServedBanks | None
    folders: dict[str, Path] = field(default_factory=dict)

    def load(self, name: str) -> Inspector:
        """Load the bank of a category when the worker starts.

        It is the active version of the store, or the one that this host served last: if the store cannot be read, or
        if the active version cannot be served here.

        Raises:
            SetupError: neither can be used. The text says why the first one cannot.
        """
        if self.copies is None:
            return self._load(name, self._own(name))
        try:
            return self.load_active(name, self.copies.versions.state(name))
        except SetupError as error:
            try:
                folder = self.copies.last(name)
                inspector = self._load(name, folder or self._own(name))
            except SetupError:
                raise error from None
            _log.error("active memory bank not loaded, serving the last one", category=name, reason=str(error))
            return inspector

    def load_active(
        self, name: str, state: State, inspecting: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> Inspector:
        """Load the active version of a category, and remember that this host serves it.

        Args:
            name: of the category.
            state: of its versions. If none is active, the bank in `paths.memory_banks` is loaded.
            inspecting: its context manager encloses the inspection of the golden images.

        Raises:
            SetupError: the version cannot be read from the store, or cannot be served here.
        """
        if self.copies is None:
            raise SetupError("banks.store is not set")
        record = None if state.active is None else state.published_as(state.active)
        if state.active is not None and record is None:
            raise SetupError(f"version {state.active[:SHORT]} of {name} was activated, but never published")
        folder = self._own(name) if record is None else self.copies.copy(name, record)
        inspector = self._load(name, folder, inspecting)
        self.copies.remember(name, state.active, state)
        return inspector

    def reference(self, name: str, inspector: Inspector) -> drift.Reference | None:
        """What the scores of a category are compared with, from the folder that its bank was loaded from."""
        return drift.Reference.read(self.folders[name], inspector.bank.manifest)

    def _own(self, name: str) -> Path:
        return self.loader.settings.paths.memory_banks / name

    def _load(
        self, name: str, folder: Path, inspecting: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> Inspector:
        inspector = self.loader.load_folder(name, folder, inspecting)
        self.folders[name] = folder
        return inspector


def fitted_categories(settings: config.Config, copies: ServedBanks | None) -> list[str]:
    """Return the categories that have a memory bank, here or in the store: see also `fitted.new_categories`.

    Raises:
        SetupError: there is none.
    """
    names = list(fitted.banks(settings, copies))
    try:
        names += fitted.new_categories(settings, copies)
    except SetupError:  # the store is away
        names += [name for name in copies.categories() if name not in settings.categories] if copies else []
    if not names:
        advice = "create one with: patchline fit --category NAME FOLDER_OF_GOOD_IMAGES"
        raise SetupError(f"{settings.paths.memory_banks}: no memory bank found; {advice}")
    return names
