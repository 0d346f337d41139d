"""Import a memory bank: check an index from elsewhere, calibrate it on good images, and save it as a bank."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

from patchline import config
from patchline.banks import import_checks, review, store
from patchline.banks.choices import NO_CHOICES, Choices
from patchline.banks.recipe import Recipe
from patchline.devices import backbone
from patchline.inspection import memory_bank
from patchline.protocol.errors import SetupError
from patchline.runtime import terminal


def import_bank(
    settings: config.Config,
    name: str,
    source: Path,
    good: Path,
    device: backbone.Device = backbone.CPU,
    choices: Choices = NO_CHOICES,
) -> memory_bank.BankManifest:
    """Import an index of this project, the reference application or amazon-science/patchcore-inspection.

    An index has no thresholds. They are calibrated on good images that the index was not made from.

    Args:
        settings: the configuration.
        name: of the category, whose recipe must be that of the index.
        source: the `nnscorer_search_index.faiss`, or its folder. A `patchcore_params.pkl` in the same folder is read
            too; no code in it is executed.
        good: folder of good images.
        device: the device that will serve.
        choices: what a person decided about outliers.

    Raises:
        OutliersError: images stand out, and nobody has accepted them or left them out.
        SetupError: the index is damaged, is no flat L2 index, is a member of an ensemble, was made from other features,
            or from the good images.
    """
    path, parameters = import_checks.find_index(source)
    bank = store.read_features(path)
    with Recipe.open(settings, name, good, device, choices) as opened, terminal.progress() as progress:
        recipe = replace(opened, reduced_jpeg=False)  # who made the index decoded all of an image
        dim = recipe.model.manifest.dim
        if bank.shape[1] != dim:
            raise SetupError(
                f"{path}: has features of {bank.shape[1]} numbers, but {recipe.category.backbone} gives {dim}"
            )
        if parameters.exists():
            require_same_features(parameters, recipe)
        check = import_checks.FeatureCheck(bank)
        distances = list(check.distances(recipe.paths, recipe.features(progress, "calibration")))
        check.require_same_network(path, recipe.model.manifest.name)
        check.require_new_images(path)
        held_out = recipe.held_out(distances)
        review.require_no_outliers(recipe, held_out, distances)
        return recipe.save_bank(bank, held_out, "held-out images", seed=0, candidates=len(bank))


def require_same_features(path: Path, recipe: Recipe) -> None:
    """Check that an index of patchcore-inspection was made from the features of our backbone.

    With one layer, patches of 3x3 and no change of dimension, its features are the zero-padded 3x3 mean, as ours are.

    Args:
        path: of its `patchcore_params.pkl`.
        recipe: of the category.

    Raises:
        SetupError: it was not; the text names every difference.
    """
    parameters = _read_parameters(path)
    manifest, side = recipe.model.manifest, recipe.category.imagesize
    expected = {
        "layers_to_extract_from": [manifest.layer],
        "pretrain_embed_dimension": manifest.dim,
        "target_embed_dimension": manifest.dim,
        "patchsize": 3,
        "patchstride": 1,
        "input_shape": [3, side, side],
    }
    network = str(parameters.get("backbone.name"))
    own = manifest.name == network or manifest.name.startswith(f"{network}_")
    differences = [] if own else [f"backbone.name is {network}"]
    differences += [
        f"{key} is {_to_list(parameters.get(key))}, not {value}"
        for key, value in expected.items()
        if _to_list(parameters.get(key)) != value
    ]
    if differences:
        raise SetupError(f"{path}: made from other features than {manifest.name} gives: {'; '.join(differences)}")


class _PlainUnpickler(pickle.Unpickler):
    """Loads plain values only. It refuses to import any name, so no code runs."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse to import."""
        raise pickle.UnpicklingError(f"it imports {module}.{name}")


def _read_parameters(path: Path) -> dict[str, Any]:
    try:
        parameters = _PlainUnpickler(io.BytesIO(path.read_bytes())).load()
    # A damaged pickle can raise any of these.
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
    if not isinstance(parameters, dict):
        raise SetupError(f"{path}: holds no dictionary of parameters")
    return parameters


def _to_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
