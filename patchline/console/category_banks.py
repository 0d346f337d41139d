"""The memory banks of a category whose scores can be shown: versions of the store, and banks of the archive."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from patchline.archive.scores import BankUse
from patchline.banks.version_log import SHORT, State, VersionState
from patchline.banks.versions import Versions
from patchline.console.context import Console
from patchline.inspection.memory_bank import BankManifest
from patchline.protocol.errors import SetupError
from patchline.protocol.messages import Thresholds

_MOST_VERSIONS, _MOST_BANKS = 30, 50


@dataclass(frozen=True)
class Choice:
    """A bank and its thresholds.

    Attributes:
        key: the digest of the version, or the name of the bank if it is not in the store.
        memory_bank: its name in verdicts. Versions with the same rows have the same one.
        thresholds: of the version, or of the latest verdict.
        state: in the store; None: it is not there.
    """

    key: str
    memory_bank: str
    thresholds: Thresholds
    state: VersionState | None = None

    @property
    def shown(self) -> str:
        """The first digits of a version, or the name of the bank."""
        return self.key if self.state is None else self.key[:SHORT]


@dataclass(frozen=True)
class Choices:
    """What there is to choose from.

    Attributes:
        all: the versions, the newest first, then banks that only the archive knows, the latest first.
        default: the one that serves, as far as it is known here; None: there is none.
        active: the version that workers are to serve; empty: none.
        previous: what a rollback activates; empty: nothing.
        problem: why the store cannot be read; empty: it can, or none is configured.
    """

    all: tuple[Choice, ...]
    default: Choice | None
    active: str = ""
    previous: str = ""
    problem: str = ""

    def find(self, key: str) -> Choice | None:
        """Return the choice of a key; the default without one; None if there is none."""
        return next((one for one in self.all if one.key == key), None) if key else self.default


def choices(console: Console, category: str) -> Choices:
    """Return the banks of a category. Raises Unavailable."""
    state, problem, versions = State(), "", list[Choice]()
    if console.banks is not None:
        try:
            state = console.banks.state(category)
            versions = [_version(console.banks, category, state, version) for version in _shown(state)]
        except SetupError as error:
            problem = str(error)
    known = {one.memory_bank for one in versions}
    used = [
        Choice(one.memory_bank, one.memory_bank, _thresholds(one))
        for one in console.archive.banks_of(category, _MOST_BANKS)
    ]
    found = (*versions, *(one for one in used if one.memory_bank not in known))
    default = next((one for one in versions if one.key == state.active), None)
    if default is None and used:
        default = next((one for one in found if one.memory_bank == used[0].memory_bank), None)
    return Choices(found, default or next(iter(found), None), state.active or "", state.previous or "", problem)


def _thresholds(use: BankUse) -> Thresholds:
    return Thresholds(review=use.review_threshold, fail=use.fail_threshold, trial=use.trial or None)


def _shown(state: State) -> list[str]:
    """Return the newest versions, and those that serve or served last however old they are."""
    newest = [record.version for record in reversed(state.published)]
    needed = {state.active, state.previous}
    return [version for number, version in enumerate(newest) if number < _MOST_VERSIONS or version in needed]


def _version(versions: Versions, category: str, state: State, version: str) -> Choice:
    manifest = _manifest(versions, category, version)
    name = f"{category}@{manifest.index_sha256[:SHORT]}"
    return Choice(version, name, manifest.thresholds, state.state_of(version))


@lru_cache(500)
def _manifest(versions: Versions, category: str, version: str) -> BankManifest:
    """Read the manifest of a version, which never changes."""
    return versions.manifest(category, version)
