"""The shared store of memory banks: versions by digest, and which one of a category is active.

Layout, below the store:
    `patchline-bank-store.json`: says that this is a store. Without it, the folder may be a mount point that is empty.
    `CATEGORY/versions/DIGEST/NAME`: the files of a version. DIGEST is the SHA-256 of its manifest, which names the
        digests of its index, held-out scores and folds: a version is recipe, index and thresholds.
    `CATEGORY/log/00000001.json`, ...: see `version_log`.
    `CATEGORY/reports/...`: what workers say of a version.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import pydantic

from patchline.banks import folds, golden, held_out, reports, store
from patchline.banks.objects import Objects, StoreUnavailable
from patchline.banks.version_log import SHORT, Act, Record, Shadow, State
from patchline.inspection.memory_bank import BankManifest, MemoryBank
from patchline.protocol import messages
from patchline.protocol.errors import SetupError

MARK = "patchline-bank-store.json"
_DONE: dict[Act, str] = {
    "publish": "published",
    "activate": "activated",
    "rollback": "rolled back to",
    "retire": "retired",
    "shadow": "made a shadow of",
    "end-shadow": "ended the shadow",
}
_MARK_CONTENT = b'{"format": "patchline.bank_store.v1"}\n'


class ChangedMeanwhile(SetupError):
    """Somebody else has acted on the category in the same moment, or since the person has looked.

    A version that was published since does not count: it changes nothing that the person has seen.
    """


class Versions:
    """The versions of all categories in a store. Thread-safe.

    Args:
        objects: where they are.
        place: the name of the store in texts.
        now_ms: the wall clock.
    """

    def __init__(self, objects: Objects, place: str, now_ms: Callable[[], int]) -> None:
        self._objects, self._place, self._now_ms = objects, place, now_ms
        self._lock = threading.Lock()
        self._states: dict[str, State] = {}
        self._manifests: dict[str, BankManifest] = {}  # by digest: they never change

    def make(self) -> bool:
        """Make the store. Return False if there is one."""
        return self._objects.create(MARK, _MARK_CONTENT)

    def categories(self) -> list[str]:
        """Return the names of the categories that have a log."""
        self._check()
        names = (name for name in self._objects.names("") if re.fullmatch(messages.NAME_PATTERN, name))
        return [name for name in names if self._objects.names(f"{name}/log")]

    def state(self, category: str) -> State:
        """Read the log of a category as far as it goes now; only what is new of it.

        Raises:
            StoreUnavailable: the store cannot be read now.
            SetupError: a record is damaged, was changed, or is of a later build.
        """
        self._check()
        with self._lock:
            state = self._states.get(category, State())
            while (content := self._objects.read(_log_key(category, len(state.records) + 1))) is not None:
                state = state.after(self._parse(category, content, state), store.digest(content))
                self._states[category] = state
        return state

    def publish(self, folder: Path, category: str, who: str, why: str) -> tuple[str, bool]:
        """Store the bank of a folder as a version. It is not served until it is activated.

        Of a version that was published before, files that are missing in the store are stored again.

        Args:
            folder: with a complete bank, as `patchline fit` writes it.
            category: that the bank must be of.
            who: acts.
            why: in words.

        Returns:
            The version, and False if it was published before.

        Raises:
            SetupError: the bank is incomplete, damaged or of another category, or the store cannot be written.
        """
        bank = store.load(folder)
        golden.read(folder)
        folds.require_undamaged(folder, bank.manifest)
        if bank.manifest.category != category:
            raise SetupError(f"{folder}: is a memory bank of {bank.manifest.category}, not of {category}")
        contents = {path.name: path.read_bytes() for path in _files(folder)}
        files = {name: store.digest(content) for name, content in contents.items()}
        _require_unchanged(folder, bank, files)
        version, state = files[store.MANIFEST_FILE], self.state(category)
        before = state.published_as(version)
        if before is not None and before.files != files:
            raise SetupError(f"{folder}: version {version[:SHORT]} was published with other golden images")
        if version not in state.retired:  # whose files may have been deleted
            for name, content in contents.items():
                self._store_file(f"{category}/versions/{version}/{name}", content)
        if before is None:
            self._record(category, state, "publish", version, who, why, files)
        return version, before is None

    def activate(
        self,
        category: str,
        version: str,
        who: str,
        why: str,
        instead_of: str | None = None,
        seen: int | None = None,
    ) -> None:
        """Have workers serve a version.

        Args:
            category: of the bank.
            version: the whole digest.
            who: acts.
            why: in words.
            instead_of: the version that must be active until now; None for any.
            seen: how many records of the log the person has seen; see `ChangedMeanwhile`. None: does not matter.

        Raises:
            ChangedMeanwhile: another one is active, or somebody else has acted since, or in the same moment.
            SetupError: the version is retired or active already, or the store cannot be written.
        """
        state = self._state_as(category, seen)
        if instead_of is not None and state.active != instead_of:
            now = "none" if state.active is None else state.active[:SHORT]
            raise ChangedMeanwhile(f"{category}: {now} is active, not {instead_of[:SHORT]}; {_last(state)}")
        if version in state.retired:
            raise SetupError(f"{category}: version {version[:SHORT]} is retired; publish a bank of its images again")
        if version == state.active:
            raise SetupError(f"{category}: version {version[:SHORT]} is active already; {_last(state)}")
        self._require_files(category, version, state)
        self._record(category, state, "activate", version, who, why)

    def rollback(self, category: str, who: str, why: str, seen: int | None = None) -> str:
        """Have workers serve the version before the active one, and return it.

        Raises:
            ChangedMeanwhile: see `activate`.
            SetupError: there is none, or see `activate`.
        """
        state = self._state_as(category, seen)
        previous = state.previous
        if previous is None:
            raise SetupError(f"{category}: no version was active before this one; activate one by its digest")
        self._record(category, state, "rollback", previous, who, why)
        return previous

    def retire(self, category: str, version: str, who: str, why: str, seen: int | None = None) -> None:
        """Have a version never activated again. Its files stay: verdicts name it.

        Raises:
            ChangedMeanwhile: see `activate`.
            SetupError: it is active, or retired already, or see `activate`.
        """
        state = self._state_as(category, seen)
        if version == state.active:
            raise SetupError(f"{category}: version {version[:SHORT]} is active; activate another one first")
        if version in state.retired:
            raise SetupError(f"{category}: version {version[:SHORT]} is retired already")
        if state.shadow is not None and version == state.shadow.version:
            raise SetupError(f"{category}: version {version[:SHORT]} is the shadow; end it first with --end")
        self._record(category, state, "retire", version, who, why)

    def shadow(self, category: str, version: str, share: float, who: str, why: str, seen: int | None = None) -> None:
        """Have workers judge a share of the images by a version, too, and act on nothing of it.

        Raises:
            ChangedMeanwhile: see `activate`.
            SetupError: it is active or retired, or it is the shadow with this share already, or see `activate`.
        """
        state = self._state_as(category, seen)
        if version == state.active:
            raise SetupError(f"{category}: version {version[:SHORT]} is active; a shadow is another version")
        if version in state.retired:
            raise SetupError(f"{category}: version {version[:SHORT]} is retired; publish a bank of its images again")
        if state.shadow == Shadow(version, share):
            raise SetupError(f"{category}: version {version[:SHORT]} is the shadow already; {_last(state)}")
        self._require_files(category, version, state)
        self._record(category, state, "shadow", version, who, why, share=share)

    def end_shadow(self, category: str, who: str, why: str, seen: int | None = None) -> str:
        """Have workers judge by the active version only. Return the version that was the shadow.

        Raises:
            ChangedMeanwhile: see `activate`.
            SetupError: there is no shadow, or see `activate`.
        """
        state = self._state_as(category, seen)
        if state.shadow is None:
            raise SetupError(f"{category}: no version is a shadow")
        self._record(category, state, "end-shadow", state.shadow.version, who, why)
        return state.shadow.version

    def manifest(self, category: str, version: str) -> BankManifest:
        """Return the manifest of a version.

        Raises:
            SetupError: it is missing, damaged or of a later build.
        """
        if version in self._manifests:
            return self._manifests[version]
        content = self.file(category, version, store.MANIFEST_FILE, version)
        try:
            bank = BankManifest.model_validate_json(content)
        except pydantic.ValidationError as error:
            raise SetupError(f"version {version[:SHORT]} of {category}: {messages.describe(error)}") from error
        self._manifests[version] = bank
        return bank

    def file(self, category: str, version: str, name: str, sha256: str) -> bytes:
        """Return a file of a version.

        Raises:
            StoreUnavailable: it is missing, or cannot be read now.
            SetupError: it has another digest.
        """
        key = f"{category}/versions/{version}/{name}"
        content = self._objects.read(key)
        if content is None:
            raise StoreUnavailable(f"{self._place}: {key} is missing; publish the bank again")
        if store.digest(content) != sha256:
            raise SetupError(f"{self._place}: {key} is damaged: it is not the file that was published")
        return content

    def report(self, category: str, name: str, content: bytes) -> None:
        """Keep what a worker says of a version. `name` must be new.

        Raises:
            StoreUnavailable: the store cannot be written.
        """
        self._check()
        self._objects.create(f"{category}/reports/{name}", content)

    def reports(self, category: str, since: int = 0) -> list[bytes]:
        """Return what workers have said, in the order of the names.

        Args:
            category: of the versions.
            since: epoch milliseconds, by the clocks of the workers: only what was said then or later.
        """
        self._check()
        names = (name for name in self._objects.names(f"{category}/reports") if reports.said_at(name) >= since)
        contents = (self._objects.read(f"{category}/reports/{name}") for name in names)
        return [content for content in contents if content is not None]

    def why_closed(self, prefix: str) -> str | None:
        """Return why this user may not write below a prefix, such as `gasket/log`; None if that is allowed.

        Raises:
            StoreUnavailable: nobody may.
        """
        return self._objects.why_closed(prefix)

    def _state_as(self, category: str, seen: int | None) -> State:
        """Return the state, or raise ChangedMeanwhile: somebody has acted after the records that a person has seen."""
        state = self.state(category)
        since = () if seen is None else state.records[max(seen, 0) :]
        acts = [record for record in since if record.act != "publish"]
        if acts:
            raise ChangedMeanwhile(f"{category}: nothing was done; {_in_words(acts[-1])}; look, then try again")
        return state

    def _check(self) -> None:
        if self._objects.read(MARK) is None:
            text = f"{self._place}: is no store of memory banks, or it is not mounted; `patchline banks init` makes one"
            raise StoreUnavailable(text)

    def _require_files(self, category: str, version: str, state: State) -> None:
        """Look whether all files of a version have a place in the store. What is in them, workers check."""
        record, there = state.published_as(version), set(self._objects.names(f"{category}/versions/{version}"))
        missing = sorted((record.files or {}).keys() - there) if record is not None else []
        if missing:
            text = f"{category}: version {version[:SHORT]} lacks {', '.join(missing)} in {self._place}"
            raise SetupError(f"{text}; publish its bank again with `patchline banks publish`")

    def _store_file(self, key: str, content: bytes) -> None:
        if not self._objects.create(key, content) and self._objects.read(key) != content:
            raise SetupError(f"{self._place}: {key} is damaged; delete the folder of this version and publish again")

    def _record(
        self,
        category: str,
        state: State,
        act: Act,
        version: str,
        who: str,
        why: str,
        files: dict[str, str] | None = None,
        share: float | None = None,
    ) -> None:
        """Make the record that follows a state, or raise ChangedMeanwhile: another one follows it already."""
        number, now_ms = len(state.records) + 1, self._now_ms()
        fields = {
            "act": act,
            "version": version,
            "when": now_ms,
            "who": who,
            "why": why,
            "files": files,
            "share": share,
        }
        try:
            record = Record.model_validate({"number": number, "after": state.digest, **fields})
        except pydantic.ValidationError as error:
            raise SetupError(f"the record of this act cannot be written: {messages.describe(error)}") from error
        content = record.model_dump_json(indent=2).encode() + b"\n"
        if not self._objects.create(_log_key(category, number), content):
            raise ChangedMeanwhile(f"{category}: nothing was done; {_last(self.state(category))}; look, then try again")

    def _parse(self, category: str, content: bytes, before: State) -> Record:
        number = len(before.records) + 1
        where = f"{self._place}: {_log_key(category, number)}"
        try:
            record = Record.model_validate_json(content, extra=messages.UNKNOWN_FIELDS)
        except pydantic.ValidationError as error:
            advice = "restore this file from a backup; a record of a later build needs that build"
            raise SetupError(f"{where}: {messages.describe(error)}; {advice}") from error
        if record.number != number or record.after != before.digest:
            raise SetupError(f"{where}: does not follow the record before it; the log was changed")
        if record.act == "publish" and (record.files or {}).get(store.MANIFEST_FILE) != record.version:
            raise SetupError(f"{where}: the version is not the digest of its manifest")
        return record


def _require_unchanged(folder: Path, bank: MemoryBank, files: dict[str, str]) -> None:
    """Raise SetupError if the files that were read are not those of the bank that was checked: a fit replaced it."""
    named = {
        store.MANIFEST_FILE: bank.digest,
        store.INDEX_FILE: bank.manifest.index_sha256,
        held_out.FILE: bank.manifest.held_out_sha256,
    }
    if any(sha256 is not None and files.get(name) != sha256 for name, sha256 in named.items()):
        raise SetupError(f"{folder}: was replaced meanwhile; publish it again")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _log_key(category: str, number: int) -> str:
    return f"{category}/log/{number:08}.json"


def _last(state: State) -> str:
    """Say in words what was done last."""
    if not state.records:
        return "nothing was done before"
    return _in_words(state.records[-1])


def _in_words(record: Record) -> str:
    return f"{record.who} has {_DONE[record.act]} {record.version[:SHORT]} ({record.why})"
