"""Memory banks on disk: a faiss index file, a manifest and golden images, replaced in one step."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pydantic
from numpy.typing import NDArray

from patchline.banks.held_out import HeldOut
from patchline.banks.replace_folder import replace_folder
from patchline.inspection.memory_bank import BankManifest, MemoryBank
from patchline.inspection.search import exact_search
from patchline.inspection.search.exact_search import Search
from patchline.protocol import messages
from patchline.protocol.errors import SetupError
from patchline.runtime import disk

INDEX_FILE = "nnscorer_search_index.faiss"  # the name in the reference application
MANIFEST_FILE = "manifest.json"
_HEADER = struct.Struct("<4siqqqBiQ")


@dataclass(frozen=True)
class IndexFile:
    """The index file of a bank, which is read when it is needed."""

    path: Path
    manifest: BankManifest

    def features(self) -> NDArray[np.float32]:
        """Read the features, float32 [patches, dim]. Raises SetupError if they are not what the manifest describes."""
        try:
            index_bytes = self.path.read_bytes()
        except OSError as error:
            raise self._unreadable(error) from error
        self._require(digest(index_bytes))
        features, manifest = _parse_index(index_bytes, self.path), self.manifest
        if features.shape != (manifest.patches, manifest.dim):
            raise SetupError(
                f"{self.path}: is no IndexFlatL2 of {manifest.patches} x {manifest.dim}; {_advice(self.path.parent)}"
            )
        return features

    def require_undamaged(self) -> None:
        """Read the file for its digest, with little memory. Raises SetupError if it is another one."""
        try:
            with self.path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise self._unreadable(error) from error
        self._require(found)

    def _require(self, found: str) -> None:
        if found != self.manifest.index_sha256:
            raise SetupError(
                f"{self.path}: is not the index that {MANIFEST_FILE} describes; {_advice(self.path.parent)}"
            )

    def _unreadable(self, error: OSError) -> SetupError:
        return SetupError(f"{self.path}: cannot be read ({error.strerror}); {_advice(self.path.parent)}")


def brute_force(index: IndexFile) -> Search:
    """The search that takes no time to make, for a process that asks little of it."""
    return exact_search.brute_force(index.features())


def with_pruning(index: IndexFile) -> Search:
    """The search of a process that inspects images, in memory of its own."""
    return exact_search.with_pruning(index.features())


def save(
    folder: Path, index_bytes: bytes, manifest: BankManifest, extra_files: Mapping[str, bytes] = MappingProxyType({})
) -> None:
    """Write a bank into a new folder, sync it to disk, and put it in the place of the old one.

    Args:
        folder: of the category.
        index_bytes: the index file.
        manifest: of the bank.
        extra_files: further files of the bank, by name.
    """
    new_folder = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new_folder, ignore_errors=True)
    new_folder.mkdir(parents=True)
    for name, content in {INDEX_FILE: index_bytes, MANIFEST_FILE: _encode(manifest), **extra_files}.items():
        _write_synced(new_folder / name, content)
    replace_folder(new_folder, folder)


def replace_manifest(folder: Path, manifest: BankManifest) -> None:
    """Replace the manifest of a bank in one step; its other files stay.

    Args:
        folder: of the category.
        manifest: with the digests of these files.
    """
    new = folder / f".{MANIFEST_FILE}.new"
    _write_synced(new, _encode(manifest))
    new.replace(folder / MANIFEST_FILE)
    disk.sync(folder)


def load(folder: Path, search: Callable[[IndexFile], Search] = brute_force) -> MemoryBank:
    """Read a bank and check that it is complete and undamaged.

    Args:
        folder: of the bank.
        search: makes its search, and checks the index file.

    Raises:
        SetupError: a file is missing or damaged, or does not match the manifest.
    """
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        make = f"make one with: patchline fit --category {folder.name} FOLDER_OF_GOOD_IMAGES"
        raise SetupError(f"category {folder.name} has no memory bank in {folder.parent}; {make}")
    try:
        manifest_bytes = path.read_bytes()
        manifest = BankManifest.model_validate_json(manifest_bytes)
    except pydantic.ValidationError as error:
        raise SetupError(f"{path}: {messages.describe(error)}; {_advice(folder)}") from error
    except OSError as error:
        raise SetupError(f"{error.filename}: cannot be read ({error.strerror}); {_advice(folder)}") from error
    searched = search(IndexFile(folder / INDEX_FILE, manifest))
    return MemoryBank(searched, manifest, _held_out_scores(folder, manifest), digest(manifest_bytes))


def _advice(folder: Path) -> str:
    return f"fit it again with: patchline fit --category {folder.name} FOLDER"


def _held_out_scores(folder: Path, manifest: BankManifest) -> NDArray[np.float32] | None:
    if manifest.held_out_sha256 is None:
        return None  # a bank of an earlier build
    return np.sort(HeldOut.read(folder, manifest.held_out_sha256).group_scores(manifest.score))


def read_features(path: Path) -> NDArray[np.float32]:
    """Read the features of an index file, float32 [rows, dim].

    Raises:
        SetupError: it is no IndexFlatL2, or it is damaged.
    """
    try:
        return _parse_index(path.read_bytes(), path)
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror})") from error


def _parse_index(index_bytes: bytes, path: Path) -> NDArray[np.float32]:
    """Parse a flat L2 index without faiss, which trusts the lengths in a file.

    The layout is that of faiss, index_write.cpp, in little endian: `IxF2`, dim (int32), rows (int64), two unused int64,
    trained (uint8), metric (int32, 1 is L2), count (uint64), then rows * dim float32.
    """
    kind, dim, rows, _, _, _, metric, count = _HEADER.unpack_from(index_bytes.ljust(_HEADER.size, b"\0"))
    if kind != b"IxF2" or metric != 1:
        raise SetupError(f"{path}: is no IndexFlatL2 (its kind is {kind!r}); use an IndexFlatL2")
    if dim < 1 or rows < 1 or count != rows * dim or len(index_bytes) != _HEADER.size + 4 * rows * dim:
        raise SetupError(f"{path}: declares {rows} x {dim} features, but has {len(index_bytes)} bytes: it is damaged")
    features = np.frombuffer(index_bytes, "<f4", offset=_HEADER.size).reshape(rows, dim).astype(np.float32)
    if not np.isfinite(features).all():
        raise SetupError(f"{path}: holds features that are not finite")
    return features


def digest(content: bytes) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _encode(manifest: BankManifest) -> bytes:
    return manifest.model_dump_json(indent=2).encode() + b"\n"


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
