"""Finds the memory bank that has given a verdict, whichever one is active now."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from patchline import config
from patchline.banks import opening, store
from patchline.banks.served_banks import ServedBanks
from patchline.banks.version_log import SHORT
from patchline.inspection.memory_bank import MemoryBank
from patchline.protocol.errors import SetupError


@dataclass(frozen=True)
class FoundBank:
    """A bank, and the folder with its other files."""

    bank: MemoryBank
    folder: Path


class PastVersions:
    """Banks by their digests: from `paths.memory_banks`, from the copies of this host, and from the store.

    A context manager: what it has copied from the store is deleted at the end.

    Args:
        settings: the configuration.
    """

    def __init__(self, settings: config.Config) -> None:
        self._settings = settings
        self._copies = Path(tempfile.mkdtemp(prefix="patchline-banks-"))

    def __enter__(self) -> PastVersions:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._copies, ignore_errors=True)

    def find(self, category: str, version: str | None, name: str | None) -> FoundBank:
        """Return a bank, checked against its digests.

        Args:
            category: of the bank.
            version: the digest of its manifest; None in verdicts of builds before it was sent.
            name: the bank in verdicts, which ends with the first digits of the digest of its index.

        Raises:
            SetupError: it is in none of the places, or cannot be read.
        """
        damaged: SetupError | None = None
        for folder in self._folders(category, version):
            try:
                bank = store.load(folder)
            except SetupError as error:  # another place may have it whole
                damaged = error
                continue
            if (bank.name == name) if version is None else (bank.digest == version):
                return FoundBank(bank, folder)
        if damaged is not None:
            raise damaged
        wanted = f"version {version[:SHORT]}" if version is not None else f"bank {name}"
        places = f"{self._settings.paths.memory_banks / category}"
        if self._settings.banks.store is None:
            raise SetupError(f"{wanted} is not in {places}, and banks.store is not set: only a store has past versions")
        raise SetupError(f"{wanted} is neither in {places} nor published in {self._settings.banks.store}")

    def _folders(self, category: str, version: str | None) -> Iterator[Path]:
        """Yield the folders that may have it, the nearest first."""
        own = self._settings.paths.memory_banks / category
        if _digest(own) is not None and version in (None, _digest(own)):
            yield own
        served = self._settings.paths.served_banks / category
        if version is not None and _digest(served / version) == version:
            yield served / version
        if self._settings.banks.store is None:
            return
        versions = opening.versions(self._settings)
        copies = ServedBanks(self._copies, versions)
        for record in versions.state(category).published:
            if version in (None, record.version):
                yield copies.copy(category, record)


def _digest(folder: Path) -> str | None:
    """Return the digest of the manifest of a bank; None if there is no bank in a folder."""
    try:
        return store.digest((folder / store.MANIFEST_FILE).read_bytes())
    except OSError:
        return None
