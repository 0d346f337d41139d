"""A memory bank from elsewhere: checked, calibrated on good images, and kept like one of ours."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from patchline import config
from patchline.banks import recipe, store
from patchline.banks.recipe import Features, Recipe
from patchline.devices import backbone
from patchline.inspection import memory_bank, score
from patchline.inspection.search import exact_search
from patchline.protocol.errors import SetupError
from patchline.runtime import terminal

PARAMETERS = "patchcore_params.pkl"


def import_bank(
    settings: config.Config, name: str, source: Path, good: Path, device: backbone.Device = backbone.CPU
) -> memory_bank.BankManifest:
    """Take an index of this project, the reference application or amazon-science/patchcore-inspection.

    None of them has a threshold: it is calibrated on good images, which must not be those that the index was made from.

    Args:
        settings: the configuration.
        name: of the category that it becomes; its recipe must be the one that the index was made with.
        source: the `nnscorer_search_index.faiss`, or its folder. A `patchcore_params.pkl` beside it is read
            too, without executing anything in it.
        good: folder of good images.
        device: that will serve.

    Raises:
        SetupError: the index is no flat L2 index of the backbone's dimension, is damaged, or comes from other features.
    """
    path = source / store.INDEX_FILE if source.is_dir() else source
    bank = store.read_features(path)
    with recipe.of(settings, name, good, device) as own, terminal.progress() as bars:
        if bank.shape[1] != own.model.manifest.dim:
            dim = own.model.manifest.dim
            raise SetupError(
                f"{path}: has features of {bank.shape[1]} numbers, but {own.category.backbone} gives {dim}"
            )
        if (path.parent / PARAMETERS).exists():
            require_same_features(path.parent / PARAMETERS, own)
        held_out = _scores(own.features(bars, "calibration"), bank, own.category)
        return own.keep(bank, held_out, "held-out images", seed=0, candidates=len(bank))


def require_same_features(path: Path, own: Recipe) -> None:
    """Refuse an amazon-science index whose features are others than our backbone's.

    With one layer, a patch of 3x3 and no change of dimension its features are the zero-padded 3x3 mean, as here.

    Raises:
        SetupError: with every difference.
    """
    found = _read_parameters(path)
    manifest, side = own.model.manifest, own.category.imagesize
    expected = {
        "layers_to_extract_from": [manifest.layer],
        "pretrain_embed_dimension": manifest.dim,
        "target_embed_dimension": manifest.dim,
        "patchsize": 3,
        "patchstride": 1,
        "input_shape": [3, side, side],
    }
    faults = [
        f"{key} is {_plain(found.get(key))}, not {want}"
        for key, want in expected.items()
        if _plain(found.get(key)) != want
    ]
    if faults:
        raise SetupError(f"{path}: made from other features than {manifest.name} gives: {'; '.join(faults)}")


class _PlainUnpickler(pickle.Unpickler):
    """Builds plain values only: it refuses whatever would import a name, and so run code."""

    def find_class(self, module: str, name: str) -> Any:
        """Never."""
        raise pickle.UnpicklingError(f"it wants to import {module}.{name}")


def _read_parameters(path: Path) -> dict[str, Any]:
    try:
        found = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    # A damaged pickle raises whatever its bytes happen to mean to the machine that reads them.
    except (
        pickle.UnpicklingError,
        OSError,
        EOFError,
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        raise SetupError(f"{path}: is no pickle of plain values: {error}") from error
    if not isinstance(found, dict):
        raise SetupError(f"{path}: holds no dictionary of parameters")
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _scores(features: Iterable[Features], bank: Features, category: config.Category) -> Features:
    """float32 [images]."""
    own = exact_search.brute_force(bank)
    found = [score.image_scores(own.nearest(patches)[0]) for patches in features]
    return np.array([score.decisive_score(scores, category.score) for scores in found], np.float32)
