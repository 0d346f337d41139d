"""A memory bank that is open to be changed: its backbone, its folds, and the file in its place at the end."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchline import config
from patchline.banks import bit_depth, calibration, golden, growth, looks, new_image, outliers, review, serving, store
from patchline.banks.folds import FILE as FOLDS_FILE
from patchline.banks.folds import Folds
from patchline.banks.held_out import FILE as HELD_OUT_FILE
from patchline.banks.recipe import Features, package_versions, printable
from patchline.banks.review import Reviewed
from patchline.devices import backbone
from patchline.inspection import memory_bank, preprocess
from patchline.inspection.inspector import Inspector
from patchline.inspection.memory_bank import BankManifest, Change
from patchline.inspection.search import exact_search
from patchline.protocol.errors import OutliersError, SetupError
from patchline.runtime import locks


@dataclass(frozen=True)
class Outlier:
    """An image that stands out: what a sheet shows of it."""

    path: Path
    reviewed: Reviewed
    distances: NDArray[np.float32]
    highest: float


@dataclass(frozen=True)
class OpenBank:
    """A bank that is changed, with its backbone.

    Attributes:
        folder: of the bank as it was.
        bank: as it was.
        folds: as they are now.
        target: of the thresholds that it gets.
        accepted: outliers that a person has accepted, by name.
    """

    settings: config.Config
    name: str
    folder: Path
    bank: memory_bank.MemoryBank
    folds: Folds
    model: backbone.Backbone
    device: backbone.Device
    target: calibration.Target
    accepted: tuple[str, ...]

    @property
    def category(self) -> config.Category:
        """The recipe of the configuration."""
        return self.settings.category(self.name)

    def require_candidates(self) -> None:
        """Check that an image can be added by itself."""
        if self.bank.manifest.clean_share:
            raise SetupError(
                f"{self.folder}: was fitted with clean_share, which compares the patches of all images with each "
                "other, so no image can be added by itself; fit again with: patchline fit --category "
                f"{self.name} FOLDER"
            )

    def decode(self, path: Path) -> NDArray[np.uint8]:
        """The pixels of an image, uint8 [height, width, 3]. Raises SetupError if it is refused."""
        return bit_depth.decode_good(path, [path], self.settings.images, self.category)

    def extract(self, path: Path) -> Features:
        """The features of an image, float32 [patches, dim]. Raises SetupError if it is refused."""
        reduced_jpeg = self.bank.manifest.reduced_jpeg
        pixels = bit_depth.good_pixels(path, [path], self.settings.images, self.category, reduced_jpeg)
        prepared = preprocess.prepare(pixels, self.category.resize, self.category.imagesize)
        return np.asarray(self.model.extract(prepared[None])[0])

    def decode_again(self, path: Path) -> NDArray[np.uint8]:
        """The pixels of an image of the bank, from its file.

        Raises:
            SetupError: the file is gone, or shows something else now.
        """
        look = next(look for look in self.folds.looks if look.path == path)
        advice = f"put it back, or fit again with: patchline fit --category {self.name} FOLDER"
        if not path.is_file():
            raise SetupError(f"{path}: is in the memory bank and needed again, but is not there any more; {advice}")
        rgb = self.decode(path)
        if looks.digest(rgb) != look.sha256:
            raise SetupError(f"{path}: is not the picture any more that is in the memory bank, and is needed; {advice}")
        return rgb

    def patches_of(self, number: int) -> Features:
        """The features of an image of the bank, float32 [patches, dim]. Raises SetupError, see `decode_again`."""
        path = self.folds.looks[number].path
        self.decode_again(path)  # it must be the same picture
        return self.extract(path)

    def with_image(self, path: Path) -> tuple[OpenBank, str, Outlier | None, int]:
        """Add an image.

        Returns:
            The bank with it, a line about it, what stands out if it does, and the number of images judged again.
        """
        rgb = self.decode(path)
        image = new_image.look_at(path, rgb, self.folds, self.category, self.decode_again)
        folds, distances = growth.add(self.folds, image, self.extract(path), self.bank.manifest.seed)
        stale = growth.unsure(folds)
        larger = replace(self, folds=folds).judging_again(stale)
        scores = larger.folds.held_out().image_scores(self.category.score)
        number, suspects = len(scores) - 1, outliers.suspects(scores)
        highest = float(np.delete(scores, suspects).max()) or 1.0
        reviewed = Reviewed(image.name, float(scores[-1]) / highest, float(outliers.p_values(scores)[-1]), "outlier")
        rows = int((folds.rows.image[folds.rows.members[0]] == number).sum())
        joined = "" if image.group is None else ", held out together with images that it belongs to"
        line = (
            f"added {printable(image.name)}: {rows} rows, score {reviewed.score:.2f} against the other images{joined}"
        )
        outlier = Outlier(path, reviewed, distances, highest) if number in suspects else None
        return larger, line, outlier, len(stale)

    def judging_again(self, numbers: Sequence[int]) -> OpenBank:
        """The same bank, after some of its images were compared again. Raises SetupError, see `decode_again`."""
        return replace(self, folds=growth.judge_again(self.folds, numbers, self.patches_of))

    def accepting(self) -> OpenBank:
        """The same bank, whose last image is an accepted outlier."""
        return replace(self, accepted=(*self.accepted, printable(self.folds.names[-1])))

    def refuse(self, outlying: Sequence[Outlier], out: Path) -> None:
        """Name the images that stand out, and draw them. Always raises OutliersError."""
        grid = self.model.grid
        tiles = [
            review.draw_tile(self.decode(each.path), self.category, grid, each.reviewed, each.distances, each.highest)
            for each in outlying
        ]
        sheet = review.write_sheet(out, self.name, tiles)
        named = ", ".join(f"{each.reviewed.name} ({each.reviewed.score:.2f})" for each in outlying)
        options = " ".join(f"--accept {shlex.quote(str(each.path))}" for each in outlying)
        raise OutliersError(
            f"{len(outlying)} of the new images stand out from those of {self.folder}, which stays as it is: {named}. "
            "The number is the score against the other images, 1 is the highest of those that do not stand out. Look "
            f"at {sheet}, and leave out what does not show a good part; add what does with {options}"
        )

    def save(self, change: Change, output: Path | None) -> BankManifest:
        """Calibrate the thresholds, record golden images, and save the bank."""
        bank, held_out, before = self.folds.rows.bank(), self.folds.held_out(), self.bank.manifest
        self.target.require_enough_images(held_out.group_scores(before.score).size)
        thresholds, calibrated = calibration.calibrate(held_out, before.score, self.target, before.calibration.method)
        index_bytes, held_out_bytes = exact_search.encode_index(bank), held_out.to_bytes()
        index_sha256 = store.digest(index_bytes)
        folds_files = self.folds.files(index_sha256)
        manifest = before.model_copy(
            update={
                "patches": len(bank),
                "good_images": len(held_out.names),
                "candidate_patches": int(self.folds.candidates.sum()),
                "accepted_outliers": tuple(name for name in self.accepted if name not in change.removed),
                "thresholds": thresholds,
                "calibration": calibrated,
                "index_sha256": index_sha256,
                "held_out_sha256": store.digest(held_out_bytes),
                "folds_sha256": store.digest(folds_files[FOLDS_FILE]),
                "changes": (*before.changes, change),
                "created_at": change.when,
                "versions": package_versions(),
            }
        )
        served = memory_bank.MemoryBank(exact_search.brute_force(bank), manifest)
        inspector = Inspector(self.category, self.settings.images, self.model, served)
        paths = [look.path for look in self.folds.looks]
        chosen = golden.choose(held_out.image_scores(before.score), paths)
        _, files = golden.record(inspector, chosen, str(self.device))
        files |= folds_files | {HELD_OUT_FILE: held_out_bytes}
        if output is None:
            _require_unchanged(self.folder, before)
        store.save(output or self.folder, index_bytes, manifest, files)
        return manifest


@contextmanager
def open_bank(settings: config.Config, name: str, device: backbone.Device, output: Path | None) -> Iterator[OpenBank]:
    """Load a bank and its backbone, and let nobody else change it meanwhile if it is replaced."""
    category, folder = settings.category(name), settings.paths.memory_banks / name
    if output is not None and output.exists():
        raise SetupError(f"{output}: is there already, and nothing is replaced there; name a new folder")
    with closing(serving.Loader(settings, device, streams=1)) as loader, _locked(folder, output):
        bank = store.load(folder)
        folds, target = Folds.load(folder, bank), _target(bank.manifest, category, folder)
        model = loader.network(name)
        serving.check_match(name, category, model, device, bank.manifest)
        if backbone.Device.parse(bank.manifest.device).kind != device.kind:
            raise SetupError(
                f"{folder}: was fitted on {bank.manifest.device}, and its features differ slightly from those of "
                f"{device}; name that device with --device"
            )
        inspector = Inspector(category, settings.images, model, bank)
        golden.require_match(inspector, golden.read(folder), category.golden_tolerance)
        accepted = bank.manifest.accepted_outliers
        yield OpenBank(settings, name, folder, bank, folds, model, device, target, accepted)


@contextmanager
def _locked(folder: Path, output: Path | None) -> Iterator[None]:
    if output is not None or not folder.is_dir():
        yield
        return
    in_use = f"{folder}: is being changed by another command; wait for its end"
    try:
        lock = locks.claim(folder.with_name(f".{folder.name}.lock"), in_use)
    except OSError as error:
        advice = "let this user write there, make room, or name another folder with --output"
        raise SetupError(f"{folder.parent}: cannot be written ({error.strerror}); {advice}") from error
    try:
        yield
    finally:
        os.close(lock)


def _require_unchanged(folder: Path, before: BankManifest) -> None:
    if store.load(folder).manifest != before:
        raise SetupError(f"{folder}: was replaced meanwhile, by fit or calibrate; run the command again")


def _target(bank: BankManifest, category: config.Category, folder: Path) -> calibration.Target:
    """The target that the thresholds of a bank were calibrated for."""
    rates = bank.calibration
    if rates.defects is not None:
        raise SetupError(
            f"{folder}: its thresholds come from images of defects, which were scored with the bank as it is. Set "
            f"thresholds from good images first, with: patchline calibrate --category {bank.category}; then change "
            "the images, and calibrate on the defects again"
        )
    trial = bank.thresholds.trial is True
    rule = calibration.Target.of(category, trial).patch_rule
    return calibration.Target(rates.false_reject_rate, rates.review_rate, rule, trial)
