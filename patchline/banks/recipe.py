"""The steps that fitting and importing a memory bank share: good images, the backbone, calibration, saving."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.banks import bit_depth, calibration, golden, good_images, outliers, store
from patchline.banks.choices import NO_CHOICES, Choices
from patchline.banks.folds import FILE as FOLDS_FILE
from patchline.banks.folds import Folds
from patchline.banks.held_out import FILE as HELD_OUT_FILE
from patchline.banks.held_out import HeldOut, largest_distances
from patchline.devices import backbone, loading
from patchline.inspection import memory_bank, preprocess
from patchline.inspection.inspector import Inspector
from patchline.inspection.search import exact_search
from patchline.protocol import image_files
from patchline.protocol.errors import SetupError
from patchline.runtime import terminal

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """A category, its loaded backbone, and good images.

    Attributes:
        folder: of the good images.
        good: the images that are used, in groups that are held out together, and those that are left out.
        choices: what a person decided about outliers.
        target: of the thresholds.
        reduced_jpeg: see `memory_bank.BankManifest`.
    """

    settings: config.Config
    name: str
    category: config.Category
    model: backbone.Backbone
    device: backbone.Device
    folder: Path
    good: good_images.GoodImages
    choices: Choices
    target: calibration.Target
    reduced_jpeg: bool

    @property
    def paths(self) -> list[Path]:
        """The images that are used."""
        return self.good.paths

    @property
    def groups(self) -> NDArray[np.int64]:
        """int64 [images], the number of the group of each image, from 0. A group is held out as a whole."""
        return self.good.groups

    @classmethod
    @contextmanager
    def open(
        cls,
        settings: config.Config,
        name: str,
        folder: Path,
        device: backbone.Device,
        choices: Choices = NO_CHOICES,
        trial: bool = False,
    ) -> Iterator[Recipe]:
        """Load the backbone of a category, find the images, and close the backbone at the end.

        Args:
            settings: the configuration.
            name: of the category.
            folder: of good images; subfolders are searched too.
            device: the device of the backbone.
            choices: what a person decided about outliers.
            trial: make thresholds that never fail a part, from a few images.

        Raises:
            SetupError: there are too few images, or the model cannot be used or gives another layer.
        """
        category = settings.category(name)
        paths = image_files.find([folder])
        decode = partial(bit_depth.decode_good, paths=paths, limits=settings.images, category=category)
        good = choices.apply(folder, good_images.collect(folder, category, decode, choices.left_out))
        terminal.note(good.report())
        target = calibration.Target.of(category, trial)
        _require_enough(good, target)
        model = loading.load(
            settings.paths.models,
            category.backbone,
            category.imagesize,
            device,
            streams=1,
            precision=category.precision,
        )
        try:
            layer = model.manifest.layer
            if layer != category.layer:
                raise SetupError(f"category {name}: layer is {category.layer}, but {category.backbone} gives {layer}")
            yield cls(settings, name, category, model, device, folder, good, choices, target, category.reduced_jpeg)
        finally:
            model.close()

    def without_outliers(self, numbers: Collection[int]) -> Recipe:
        """The same recipe without some of the images, by their numbers."""
        return replace(self, good=self.good.without(numbers, good_images.OUTLIERS))

    def images(self, progress: terminal.Progress, title: str) -> Iterator[NDArray[np.uint8]]:
        """The input of the backbone for each image in order, uint8 [1, side, side, 3].

        Raises:
            SetupError: an image cannot be decoded.
        """
        for path in progress.track(self.paths, description=title):
            pixels = bit_depth.good_pixels(path, self.paths, self.settings.images, self.category, self.reduced_jpeg)
            yield preprocess.prepare(pixels, self.category.resize, self.category.imagesize)[None]

    def features(self, progress: terminal.Progress, title: str) -> Iterator[Features]:
        """The features of each image in order, float32 [patches, dim].

        Raises:
            SetupError: an image cannot be decoded.
        """
        for image in self.images(progress, title):
            yield self.model.extract(image)[0]

    def held_out(self, distances: Iterable[NDArray[np.float32]]) -> HeldOut:
        """The held-out images, from the distances of the patches of each image, float32 [patches]."""
        names = (good_images.relative_name(path, self.folder) for path in self.paths)
        return HeldOut(tuple(names), self.groups, np.array([largest_distances(each) for each in distances]))

    def save_bank(
        self,
        bank: Features,
        held_out: HeldOut,
        method: memory_bank.Method,
        seed: int,
        candidates: int,
        folds: Folds | None = None,
    ) -> memory_bank.BankManifest:
        """Calibrate the thresholds, record golden images, and save the bank where workers look for it.

        Args:
            bank: float32 [rows, dim].
            held_out: the images, compared with a bank without any patch of their groups.
            method: the method that gave `held_out`.
            seed: of the coreset.
            candidates: the number of patches that the coreset was selected from.
            folds: the rows of the bank, if they are patches of the images.
        """
        index_bytes, held_out_bytes = exact_search.encode_index(bank), held_out.to_bytes()
        digests = {"index_sha256": store.digest(index_bytes), "held_out_sha256": store.digest(held_out_bytes)}
        folds_files = {} if folds is None else folds.files(digests["index_sha256"])
        if folds is not None:
            digests["folds_sha256"] = store.digest(folds_files[FOLDS_FILE])
        manifest = self._manifest(bank, held_out, method, seed, candidates, digests)
        inspector = Inspector(
            self.category,
            self.settings.images,
            self.model,
            memory_bank.MemoryBank(exact_search.brute_force(bank), manifest),
        )
        _, files = golden.record(
            inspector, golden.choose(held_out.image_scores(self.category.score), self.paths), str(self.device)
        )
        files |= folds_files | {HELD_OUT_FILE: held_out_bytes}
        store.save(self.settings.paths.memory_banks / self.name, index_bytes, manifest, files)
        return manifest

    def _manifest(
        self,
        bank: Features,
        held_out: HeldOut,
        method: memory_bank.Method,
        seed: int,
        candidates: int,
        digests: dict[str, str],
    ) -> memory_bank.BankManifest:
        category, model = self.category, self.model.manifest
        thresholds, calibrated = calibration.calibrate(held_out, category.score, self.target, method)
        return memory_bank.BankManifest(
            category=self.name,
            backbone=model.name,
            backbone_sha256=self.model.model_sha256,
            source_sha256=self.model.source_sha256,
            layer=model.layer,
            precision=self.model.precision,
            device=str(self.device),
            resize=category.resize,
            imagesize=category.imagesize,
            dim=bank.shape[1],
            patches=bank.shape[0],
            coreset_ratio=category.coreset_ratio,
            seed=seed,
            good_images=len(held_out.names),
            candidate_patches=candidates,
            clean_share=0.0 if method == "held-out images" else category.clean_share,
            accepted_outliers=self._accepted_outliers(held_out),
            left_out=self._left_out(),
            score=category.score,
            bit_depth=category.bit_depth,
            bit_alignment=category.bit_alignment,
            reduced_jpeg=self.reduced_jpeg,
            thresholds=thresholds,
            calibration=calibrated,
            **digests,
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            versions=package_versions(),
        )

    def _accepted_outliers(self, held_out: HeldOut) -> tuple[str, ...]:
        suspects = outliers.suspects(held_out.image_scores(self.category.score))
        names = [held_out.names[row] for row in suspects]
        return tuple(printable(name) for name in names if name in self.choices.accepted)

    def _left_out(self) -> tuple[str, ...]:
        """The images that a person or a test of outliers left out."""
        reasons = (good_images.CHOSEN, good_images.OUTLIERS)
        paths = [image.path for image in self.good.left_out if image.reason in reasons]
        return tuple(printable(good_images.relative_name(path, self.folder)) for path in paths)


def printable(name: str) -> str:
    """The name of a file as UTF-8, which it need not be."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _require_enough(good: good_images.GoodImages, target: calibration.Target) -> None:
    try:
        target.require_enough_images(good.group_count)
    except SetupError as error:
        if good.group_count == len(good.paths):
            raise
        advice = "if all pictures show one part, set near_duplicates: ignore for the category, to try the rest"
        raise SetupError(f"{good.describe()}; each group counts as one image: {error}; {advice}") from error


def package_versions() -> dict[str, str]:
    """The versions of Python and of the packages that make a bank, by name."""
    packages = ("patchline", "openvino", "faiss-cpu", "opencv-python", "numpy")
    return {"python": platform.python_version()} | {package: metadata.version(package) for package in packages}
