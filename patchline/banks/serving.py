"""Load the inspectors of a worker, and check that models, memory banks and configuration match."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from patchline import config
from patchline.banks import golden, store
from patchline.devices import backbone, loading
from patchline.devices.model_manifest import Precision
from patchline.inspection import memory_bank
from patchline.inspection.inspector import Inspector
from patchline.inspection.search import exact_search
from patchline.inspection.search.exact_search import Search
from patchline.protocol.errors import MismatchError, SetupError


@dataclass(frozen=True)
class Loaded:
    """The inspectors of the categories that can be served, and why the others cannot, by category."""

    inspectors: dict[str, Inspector]
    errors: dict[str, SetupError]


class Loader:
    """Loads inspectors. Categories with the same backbone, size and precision share a backbone. Thread-safe.

    Args:
        settings: the configuration.
        device: the device of the backbones.
        streams: the number of threads that call an inspector at the same time.
        cpus: that a backbone may use. If None, all.
        on_failure: called whenever the device fails.
        hosts: processes of each backbone on an Ascend chip.
        search: makes the search of a bank, and checks its index file.
    """

    def __init__(
        self,
        settings: config.Config,
        device: backbone.Device,
        streams: int,
        cpus: int | None = None,
        on_failure: Callable[[], None] = lambda: None,
        hosts: int = 1,
        search: Callable[[store.IndexFile], Search] = store.with_pruning,
    ) -> None:
        self.settings, self.device, self._search = settings, device, search
        self._load_backbone = partial(
            loading.load,
            settings.paths.models,
            device=device,
            streams=streams,
            cpus=cpus,
            on_failure=on_failure,
            hosts=hosts,
        )
        self._lock = threading.Lock()  # a backbone is compiled by all CPUs, one after the other
        self._backbones: dict[tuple[str, int, Precision | None], backbone.Backbone] = {}

    def load(self, name: str) -> Inspector:
        """Load the inspector of a category with the bank in `paths.memory_banks`. See `load_folder` for the errors."""
        return self.load_folder(name, self.settings.paths.memory_banks / name)

    def load_folder(
        self, name: str, folder: Path, inspecting: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> Inspector:
        """Load the inspector of a category with the bank of a folder.

        Args:
            name: of the category.
            folder: of the bank.
            inspecting: its context manager encloses the inspection of the golden images.

        Raises:
            SetupError: the model or bank is missing, damaged or does not match, or golden images have other scores.
        """
        category = self.settings.category(name)
        bank = store.load(folder, self._search)
        network = self.network(name)
        check_match(name, category, network, self.device, bank.manifest)
        inspector = Inspector(category, self.settings.images, network, bank)
        recorded = golden.read(folder)
        with inspecting():
            golden.require_match(inspector, recorded, category.golden_tolerance)
        return inspector

    def load_all(
        self,
        names: Sequence[str],
        stop: threading.Event,
        threads: int = 1,
        on_progress: Callable[[], None] = lambda: None,
        load: Callable[[str], Inspector] | None = None,
    ) -> Loaded:
        """Load several categories in parallel. A category that cannot be loaded does not stop the others.

        Args:
            names: of the categories.
            stop: ends the loading early; the categories that are not loaded yet are missing in the result.
            threads: that load at the same time.
            on_progress: called after each category.
            load: loads one category; by default the method `load`.
        """
        loaded = Loaded({}, {})

        def load_one(name: str) -> Inspector | None:
            return None if stop.is_set() else (load or self.load)(name)

        # These threads are the parallelism: with a BLAS of several threads in each, they would wait for each other.
        alone = partial(exact_search.set_threads, 1)
        with ThreadPoolExecutor(threads, thread_name_prefix="load", initializer=alone) as pool:
            futures = {pool.submit(load_one, name): name for name in names}
            for future in as_completed(futures):
                try:
                    inspector = future.result()
                    if inspector is not None:
                        loaded.inspectors[futures[future]] = inspector
                except SetupError as error:
                    loaded.errors[futures[future]] = error
                on_progress()
        return loaded

    def network(self, name: str) -> backbone.Backbone:
        """Load the backbone of a category.

        Raises:
            SetupError: see `loading.load`.
        """
        category = self.settings.category(name)
        key = (category.backbone, category.imagesize, category.precision)
        with self._lock:
            if key not in self._backbones:
                self._backbones[key] = self._load_backbone(key[0], key[1], precision=key[2])
            return self._backbones[key]

    def close(self) -> None:
        """Release the device."""
        for network in self._backbones.values():
            network.close()


def load(settings: config.Config, names: list[str], device: backbone.Device, streams: int) -> dict[str, Inspector]:
    """Load an inspector for each category.

    Args:
        settings: the configuration.
        names: of the categories.
        device: the device of the backbones.
        streams: the number of threads that call an inspector at the same time.

    Raises:
        SetupError: see `Loader.load`.
    """
    loader = Loader(settings, device, streams)
    return {name: loader.load(name) for name in names}


def compare_golden_images(settings: config.Config, model: str, device: backbone.Device) -> list[str]:
    """Compare the scores of a new model with those at fit time, for every bank fitted with a model of that name.

    Returns:
        A sentence for each such category: the comparison, or the reason why it failed.
    """
    sentences = []
    for name, category in settings.categories.items():
        folder = settings.paths.memory_banks / name
        if category.backbone != model or not folder.is_dir():
            continue
        try:
            side, precision = category.imagesize, category.precision
            with contextlib.closing(loading.load(settings.paths.models, model, side, device, 1, precision)) as loaded:
                inspector = Inspector(category, settings.images, loaded, store.load(folder))
                sentences.append(f"{name}: {golden.compare(inspector, golden.read(folder))}")
        except SetupError as error:
            sentences.append(f"{name}: {error}")
    return sentences


def check_match(
    name: str,
    category: config.Category,
    network: backbone.Backbone,
    device: backbone.Device,
    bank: memory_bank.BankManifest,
) -> None:
    """Check that a bank was fitted with the recipe and the model that will serve it.

    On the kind of device that fitted the bank, the file of the model must be the same. On another kind, it must come
    from the same backbone; the golden images then show whether the features are near enough.

    Raises:
        MismatchError: it was not; the text names every difference.
    """
    model = network.manifest
    same_kind = backbone.Device.parse(bank.device).kind == device.kind
    fitted_with = bank.backbone_sha256 if same_kind else bank.source_sha256 or bank.backbone_sha256
    serves = network.model_sha256 if same_kind else model.sha256
    expected = {
        "category": name,
        "backbone": category.backbone,
        "layer": category.layer,
        "resize": category.resize,
        "imagesize": category.imagesize,
        "dim": model.dim,
        "score": category.score,
        "bit_depth": category.bit_depth,
        "bit_alignment": category.bit_alignment,
        "reduced_jpeg": bank.reduced_jpeg and category.reduced_jpeg,  # no bank has to be fitted again to reduce
    }
    if model.layer != category.layer:
        raise MismatchError(
            f"category {name}: layer is {category.layer}, but backbone {model.name} gives {model.layer}"
        )
    differences = [
        f"{key} was {getattr(bank, key)} and is {value}"
        for key, value in expected.items()
        if getattr(bank, key) != value
    ]
    if fitted_with != serves:
        differences.append(f"the sha256 of its model was {fitted_with} and is {serves}")
    if differences:
        advice = f"fit it again with: patchline fit --category {name} FOLDER"
        raise MismatchError(f"memory bank of {name}: {'; '.join(differences)}; {advice}")
