"""Memory banks on disk: an index file of faiss, a manifest and golden images, exchanged as a whole."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pydantic
from numpy.typing import NDArray

from patchline.banks.replace_folder import replace_folder
from patchline.inspection.memory_bank import BankManifest, MemoryBank
from patchline.inspection.search import exact_search
from patchline.protocol import messages
from patchline.protocol.errors import SetupError

INDEX_FILE = "nnscorer_search_index.faiss"  # the reference application's own name
MANIFEST_FILE = "manifest.json"
_HEADER = struct.Struct("<4siqqqBiQ")


def save(
    folder: Path, index_bytes: bytes, manifest: BankManifest, others: Mapping[str, bytes] = MappingProxyType({})
) -> None:
    """Write a bank as a whole: aside, synced, then exchanged for the old one.

    Args:
        folder: of the category.
        index_bytes: the index file.
        manifest: that describes it.
        others: further files of the bank, by name.
    """
    aside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    manifest_bytes = manifest.model_dump_json(indent=2).encode() + b"\n"
    for name, content in {INDEX_FILE: index_bytes, MANIFEST_FILE: manifest_bytes, **others}.items():
        _write(aside / name, content)
    replace_folder(aside, folder)


def load(folder: Path) -> MemoryBank:
    """Read a bank and check that it is whole.

    Raises:
        SetupError: a file is missing, damaged, or not what its manifest says.
    """
    path = folder / MANIFEST_FILE
    again = f"fit it again with: patchline fit --category {folder.name} FOLDER"
    try:
        manifest = BankManifest.model_validate_json(path.read_bytes())
        index_bytes = (folder / INDEX_FILE).read_bytes()
    except pydantic.ValidationError as error:
        raise SetupError(f"{path}: {messages.describe(error)}; {again}") from error
    except OSError as error:
        raise SetupError(f"{error.filename}: cannot be read ({error.strerror}); {again}") from error
    if hashlib.sha256(index_bytes).hexdigest() != manifest.index_sha256:
        raise SetupError(f"{folder / INDEX_FILE}: is not the index that {MANIFEST_FILE} describes; {again}")
    features = _features(index_bytes, folder / INDEX_FILE)
    if features.shape != (manifest.patches, manifest.dim):
        raise SetupError(f"{folder / INDEX_FILE}: is no IndexFlatL2 of {manifest.patches} x {manifest.dim}; {again}")
    return MemoryBank(exact_search.brute_force(features), manifest)


def read_features(path: Path) -> NDArray[np.float32]:
    """float32 [rows, dim] of an index file from anywhere. Raises SetupError when it is no whole IndexFlatL2."""
    try:
        return _features(path.read_bytes(), path)
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror})") from error


def _features(index_bytes: bytes, path: Path) -> NDArray[np.float32]:
    """The vectors of a flat L2 index, by the layout that faiss writes; faiss itself trusts the lengths in a file.

    `IxF2`, dim (int32), rows (int64), two unused int64, trained (uint8), metric (int32, 1 is L2), count (uint64),
    then rows * dim float32: little endian (faiss, index_write.cpp).
    """
    kind, dim, rows, _, _, _, metric, count = _HEADER.unpack_from(index_bytes.ljust(_HEADER.size, b"\0"))
    if kind != b"IxF2" or metric != 1:
        raise SetupError(f"{path}: is no IndexFlatL2 (its kind is {kind!r}); other kinds of index cannot be used")
    if dim < 1 or rows < 1 or count != rows * dim or len(index_bytes) != _HEADER.size + 4 * rows * dim:
        raise SetupError(f"{path}: says {rows} x {dim} features, but has {len(index_bytes)} bytes: it is damaged")
    features = np.frombuffer(index_bytes, "<f4", offset=_HEADER.size).reshape(rows, dim).astype(np.float32)
    if not np.isfinite(features).all():
        raise SetupError(f"{path}: holds features that are not finite")
    return features


def digest(index_bytes: bytes) -> str:
    """SHA-256 of an index file, in hexadecimal."""
    return hashlib.sha256(index_bytes).hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
