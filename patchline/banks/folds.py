"""`folds.npz` of a memory bank: what it takes to add and remove single images. A bank serves without it."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchline.banks.bank_rows import BankRows
from patchline.banks.held_out import HeldOut, digest, largest_distances
from patchline.banks.hottest import Judged
from patchline.banks.looks import Look
from patchline.banks.row_origins import FILE as ROW_ORIGINS_FILE
from patchline.banks.row_origins import RowOrigins
from patchline.inspection.memory_bank import BankManifest, MemoryBank
from patchline.protocol.errors import SetupError

FILE = "folds.npz"
_FORMAT = "patchline.folds.v1"


@dataclass(frozen=True)
class Folds:
    """A memory bank, its good images, and the bank without each group of them.

    Attributes:
        rows: of all these banks.
        radius: the largest squared distance of a candidate to its nearest row at the fit, after `coreset.project`.
        patches_per_image: that are candidates for rows, at most.
        names: of the images.
        groups: int64 [images], the number of the group of each image, from 0 without gaps.
        candidates: int64 [images], the number of patches that could become rows.
        judged: each image by the bank without its group.
        looks: of each image.
    """

    rows: BankRows
    radius: float
    patches_per_image: int
    names: tuple[str, ...]
    groups: NDArray[np.int64]
    candidates: NDArray[np.int64]
    judged: tuple[Judged, ...]
    looks: tuple[Look, ...]

    def held_out(self) -> HeldOut:
        """The held-out images of the bank."""
        return HeldOut(self.names, self.groups, np.array([largest_distances(each.distances) for each in self.judged]))

    def files(self, index_sha256: str) -> dict[str, bytes]:
        """The content of `folds.npz` and `rows.npz`, by name.

        Args:
            index_sha256: the digest of the index of `rows.bank()`.
        """
        rows = self.rows.bank_first()
        in_bank = int(rows.members[0].sum())
        origins = RowOrigins(tuple(look.path for look in self.looks), rows.image[:in_bank], rows.patch[:in_bank])
        return {FILE: self._encode(index_sha256, rows, in_bank), ROW_ORIGINS_FILE: origins.encode()}

    def _encode(self, index_sha256: str, rows: BankRows, in_bank: int) -> bytes:
        target = io.BytesIO()
        arrays: dict[str, Any] = {
            "format": np.array(_FORMAT),
            "index_sha256": np.array(index_sha256),
            "spare_features": rows.features[in_bank:],
            "row_image": rows.image,
            "row_patch": rows.patch,
            "members": np.packbits(rows.members, axis=1),
            "radius": np.array(self.radius),
            "patches_per_image": np.array(self.patches_per_image),
            "names": np.array([name.encode("utf-8", "surrogateescape") for name in self.names]),
            "groups": self.groups,
            "candidates": self.candidates,
        }
        np.savez(target, **arrays, **_encode_judged(self.judged), **_encode_looks(self.looks))
        return target.getvalue()

    @classmethod
    def load(cls, folder: Path, bank: MemoryBank) -> Folds:
        """Read the file of a bank.

        Raises:
            SetupError: the bank has none, as those of earlier builds and imported ones, or it is damaged, or not the
                one that the manifest names.
        """
        advice = f"fit it again with: patchline fit --category {bank.manifest.category} FOLDER"
        path = folder / FILE
        try:
            content = path.read_bytes()
            _require_named(content, path, bank.manifest, advice)
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                folds = cls._decode(dict(arrays), bank.search.features, bank.manifest)
        except FileNotFoundError as error:
            how = "was imported" if bank.manifest.calibration.method == "held-out images" else "is of an earlier build"
            how = how if bank.manifest.folds_sha256 is None else f"has lost its {FILE}"
            raise SetupError(f"{folder}: {how}, and keeps nothing to add or remove images with; {advice}") from error
        except OSError as error:
            raise SetupError(f"{path}: cannot be read ({error.strerror}); {advice}") from error
        except (EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
            raise SetupError(f"{path}: is damaged; {advice}") from error
        if folds is None:
            raise SetupError(f"{path}: belongs to another memory bank or build; {advice}")
        return folds

    @classmethod
    def _decode(cls, arrays: dict[str, Any], bank: NDArray[np.float32], manifest: BankManifest) -> Folds | None:
        if arrays["format"].item() != _FORMAT or arrays["index_sha256"].item() != manifest.index_sha256:
            return None
        count = len(arrays["row_image"])
        rows = BankRows(
            np.concatenate([bank, arrays["spare_features"]]),
            arrays["row_image"],
            arrays["row_patch"],
            np.unpackbits(arrays["members"], axis=1, count=count).astype(np.bool_),
        )
        names = tuple(name.decode("utf-8", "surrogateescape") for name in arrays["names"].tolist())
        return cls(
            rows,
            float(arrays["radius"]),
            int(arrays["patches_per_image"]),
            names,
            arrays["groups"],
            arrays["candidates"],
            tuple(_decode_judged(arrays)),
            tuple(_decode_looks(arrays)),
        )


def require_undamaged(folder: Path, manifest: BankManifest) -> None:
    """Check that the file of a bank, if there is one, is the one that its manifest names.

    Raises:
        SetupError: it is another one, or cannot be read.
    """
    path, advice = folder / FILE, f"fit it again with: patchline fit --category {manifest.category} FOLDER"
    try:
        _require_named(path.read_bytes(), path, manifest, advice)
    except FileNotFoundError:
        return  # a bank serves without it
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror}); {advice}") from error


def _require_named(content: bytes, path: Path, manifest: BankManifest, advice: str) -> None:
    if manifest.folds_sha256 not in (None, digest(content)):  # earlier builds named none
        raise SetupError(f"{path}: is not the file that the manifest describes: it is damaged; {advice}")


def _encode_judged(judged: Sequence[Judged]) -> dict[str, Any]:
    leans_on = np.zeros((len(judged), len(judged)), np.bool_)
    for number, each in enumerate(judged):
        leans_on[number, each.leans_on] = True
    return {
        "hottest_features": np.array([each.features for each in judged]),
        "hottest_distances": np.array([each.distances for each in judged]),
        "others": np.array([each.others for each in judged], np.float32),
        "leans_on": np.packbits(leans_on, axis=1),
    }


def _decode_judged(arrays: dict[str, Any]) -> list[Judged]:
    others = arrays["others"].tolist()
    leans_on = np.unpackbits(arrays["leans_on"], axis=1, count=len(others))
    kept = zip(arrays["hottest_features"], arrays["hottest_distances"], others, leans_on, strict=True)
    return [Judged(features, distances, rest, np.flatnonzero(on)) for features, distances, rest, on in kept]


def _encode_looks(looks: Sequence[Look]) -> dict[str, Any]:
    return {
        "paths": np.array([str(look.path.absolute()).encode("utf-8", "surrogateescape") for look in looks]),
        "pixels_sha256": np.array([list(look.sha256) for look in looks], np.uint8),
        "sides": np.array([look.sides for look in looks], np.int32),
        "details": np.array([look.detail for look in looks], np.float16),
        "is_mask": np.array([look.is_mask for look in looks], np.bool_),
        "orientations": np.array([look.orientation for look in looks], np.uint8),
    }


def _decode_looks(arrays: dict[str, Any]) -> list[Look]:
    paths = [Path(path.decode("utf-8", "surrogateescape")) for path in arrays["paths"].tolist()]
    digests = [bytes(digest) for digest in arrays["pixels_sha256"]]
    sides = [(int(height), int(width)) for height, width in arrays["sides"]]
    details = arrays["details"].astype(np.float32)
    seen = arrays["is_mask"].tolist(), arrays["orientations"].tolist()
    return [Look(*each) for each in zip(paths, digests, sides, details, *seen, strict=True)]
