"""What fitting and importing a memory bank share: the images, the backbone, and how a bank is kept."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.banks import calibration, golden, store
from patchline.devices import backbone, loading
from patchline.inspection import decode, memory_bank, preprocess
from patchline.inspection.inspector import Inspector
from patchline.inspection.search import exact_search
from patchline.protocol import image_files
from patchline.protocol.errors import SetupError, Unusable
from patchline.protocol.messages import Thresholds
from patchline.runtime import terminal

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """A category, the backbone that serves it, and good images of it."""

    settings: config.Config
    name: str
    category: config.Category
    model: backbone.Backbone
    device: backbone.Device
    paths: list[Path]

    def prepared(self, bars: terminal.Progress, title: str) -> Iterator[NDArray[np.uint8]]:
        """uint8 [1, side, side, 3] of each image, in order. Raises SetupError on one that cannot be decoded."""
        for path in bars.track(self.paths, description=title):
            try:
                rgb = decode.decode(path.read_bytes(), image_files.content_type(path), self.settings.images)
            except Unusable as error:
                raise SetupError(f"{path}: {error.detail}; mend it or take it out of the folder") from error
            yield preprocess.prepare(rgb, self.category.resize, self.category.imagesize)[None]

    def features(self, bars: terminal.Progress, title: str) -> Iterator[Features]:
        """float32 [patches, dim] of each image, in order. Raises SetupError on one that cannot be decoded."""
        for image in self.prepared(bars, title):
            yield self.model.extract(image)[0]

    def keep(
        self,
        bank: Features,
        held_out: Features,
        method: Literal["leave-one-image-out", "held-out images"],
        seed: int,
        candidates: int,
    ) -> memory_bank.BankManifest:
        """Calibrate thresholds, choose golden images, and write the bank where workers look for it.

        Args:
            bank: float32 [rows, dim].
            held_out: float32 [images], the score of each image against a bank that has nothing of it.
            method: how `held_out` came about.
            seed: of the coreset.
            candidates: how many patches the coreset was chosen from.
        """
        index_bytes = exact_search.encode_index(bank)
        manifest = self._manifest(bank, held_out, method, seed, candidates, store.digest(index_bytes))
        own = memory_bank.MemoryBank(exact_search.brute_force(bank), manifest)
        inspect = Inspector(self.category, self.settings.images, self.model, own)
        _, files = golden.record(inspect, self._golden(held_out), str(self.device))
        store.save(self.settings.paths.memory_banks / self.name, index_bytes, manifest, files)
        return manifest

    def _golden(self, held_out: Features) -> dict[str, tuple[bytes, str]]:
        """The images that scored lowest, in the middle and highest."""
        order = np.argsort(held_out, kind="stable")
        chosen = {"lowest": order[0], "middle": order[len(order) // 2], "highest": order[-1]}
        paths = {f"golden-{word}{self.paths[row].suffix.lower()}": self.paths[row] for word, row in chosen.items()}
        return {name: (path.read_bytes(), image_files.content_type(path)) for name, path in paths.items()}

    def _manifest(
        self, bank: Features, held_out: Features, method: str, seed: int, candidates: int, index_sha256: str
    ) -> memory_bank.BankManifest:
        category, model = self.category, self.model.manifest
        return memory_bank.BankManifest(
            category=self.name,
            backbone=model.name,
            backbone_sha256=model.sha256,
            layer=model.layer,
            precision=self.model.precision,
            device=str(self.device),
            resize=category.resize,
            imagesize=category.imagesize,
            dim=bank.shape[1],
            patches=bank.shape[0],
            coreset_ratio=category.coreset_ratio,
            seed=seed,
            good_images=held_out.size,
            candidate_patches=candidates,
            score=category.score,
            thresholds=_thresholds(held_out, category),
            calibration=_calibration(held_out, category, method),
            index_sha256=index_sha256,
            created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            versions=_versions(),
        )


@contextmanager
def of(settings: config.Config, name: str, folder: Path, device: backbone.Device) -> Iterator[Recipe]:
    """A category's recipe with the good images of a folder, and its backbone loaded.

    Raises:
        SetupError: too few images, or a model that cannot be used or gives another layer.
    """
    category = settings.category(name)
    paths = image_files.find([folder])
    calibration.require_enough_images(len(paths), category.false_reject_rate)
    model = loading.load(
        settings.paths.models, category.backbone, category.imagesize, device, streams=1, precision=category.precision
    )
    try:
        found = model.manifest.layer
        if found != category.layer:
            raise SetupError(f"category {name}: layer is {category.layer}, but {category.backbone} gives {found}")
        yield Recipe(settings, name, category, model, device, paths)
    finally:
        model.close()


def _thresholds(held_out: Features, category: config.Category) -> Thresholds:
    return Thresholds(
        review=calibration.threshold(held_out, category.review_rate),
        fail=calibration.threshold(held_out, category.false_reject_rate),
    )


def _calibration(held_out: Features, category: config.Category, method: str) -> memory_bank.Calibration:
    return memory_bank.Calibration(
        method=method,
        images=held_out.size,
        false_reject_rate=category.false_reject_rate,
        review_rate=category.review_rate,
        held_out_median=float(np.median(held_out)),
        held_out_max=float(held_out.max()),
    )


def _versions() -> dict[str, str]:
    packages = ("patchline", "openvino", "faiss-cpu", "opencv-python", "numpy")
    return {"python": platform.python_version()} | {package: metadata.version(package) for package in packages}
