"""What the pages of memory banks show of the store: its categories, and the versions of one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from patchline.banks.version_log import Record, State
from patchline.banks.versions import Versions
from patchline.console import bank_changes
from patchline.console.context import Console
from patchline.console.texts import mark
from patchline.console.visit import Refused
from patchline.inspection.memory_bank import BankManifest
from patchline.protocol import messages
from patchline.protocol.errors import SetupError

_MOST = 30  # versions on a page
_FLOAT_BYTES = 4
_GOLDEN = "golden-"
_UNREADABLE = mark("The store of memory banks cannot be read")


@dataclass(frozen=True)
class Version:
    """A version of a category.

    Attributes:
        state: see `version_log.State.state_of`.
        published: the record with which it was published.
        bank: its manifest; None if it cannot be read.
        problem: why it cannot be read.
        golden: the number of its golden images.
    """

    digest: str
    state: str
    published: Record
    bank: BankManifest | None
    problem: str
    golden: int

    @property
    def megabytes(self) -> float:
        """The size of its rows, in megabytes."""
        return 0.0 if self.bank is None else self.bank.patches * self.bank.dim * _FLOAT_BYTES / 1e6


def categories(console: Console) -> dict[str, State]:
    """Return the versions of all categories of the store and of the configuration, by name.

    Raises:
        Refused: there is no store, or it cannot be read.
    """
    versions = bank_changes.store(console)
    try:
        names = {*versions.categories(), *console.settings.categories}
        return {name: versions.state(name) for name in sorted(names)}
    except SetupError as error:
        raise Refused(503, _UNREADABLE, str(error)) from error


def read(console: Console, category: str) -> State:
    """Return the versions of a category. Raises Refused, see `categories`, and if there is no such category."""
    if re.fullmatch(messages.NAME_PATTERN, category) is None:
        raise Refused(404)
    versions = bank_changes.store(console)
    try:
        state = versions.state(category)
    except SetupError as error:
        raise Refused(503, _UNREADABLE, str(error)) from error
    if not state.records and category not in console.settings.categories:
        raise Refused(404, mark("Neither the store nor the configuration has this category."), category)
    return state


def versions_of(console: Console, category: str, state: State, all_: bool = False) -> list[Version]:
    """Return the versions of a category, the newest first: the latest ones and those in use, or all."""
    store, found = bank_changes.store(console), []
    used = {state.active, state.previous, None if state.shadow is None else state.shadow.version}
    for number, record in enumerate(reversed(state.published)):
        if all_ or number < _MOST or record.version in used:
            found.append(_version(store, category, state, record))
    return found


def version(console: Console, category: str, state: State, digits: str) -> Version:
    """Return the version whose digest begins with some digits. Raises Refused: there is none."""
    try:
        record = state.published_as(state.find(digits))
    except SetupError as error:
        raise Refused(404, mark("There is no such version."), str(error)) from error
    if record is None:
        raise Refused(404, mark("There is no such version."), digits)
    return _version(bank_changes.store(console), category, state, record)


def _version(store: Versions, category: str, state: State, record: Record) -> Version:
    golden = sum(name.startswith(_GOLDEN) for name in record.files or {})
    bank, problem = None, ""
    try:
        bank = store.manifest(category, record.version)
    except SetupError as error:
        problem = str(error)
    return Version(record.version, state.state_of(record.version), record, bank, problem, golden)
