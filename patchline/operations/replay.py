"""Judges archived pictures again, with the bank, model and recipe of their verdicts: the same score, or why not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pydantic

from patchline import config
from patchline.archive.base import Archive
from patchline.archive.pictures import PictureIndex, PictureRow
from patchline.archive.store import Store, StoreUnavailable
from patchline.banks import serving
from patchline.banks.past_versions import FoundBank
from patchline.devices import backbone, loading, model_manifest
from patchline.inspection import judged_with
from patchline.inspection.inspector import Inspection, Inspector, untimed
from patchline.inspection.memory_bank import BankManifest
from patchline.operations.look_result import Answer, Lack
from patchline.protocol import messages, picture_message
from patchline.protocol.errors import JobError, SetupError
from patchline.protocol.messages import JudgedWith, Verdict


@dataclass(frozen=True)
class Replay:
    """A job that was judged again.

    Attributes:
        score: of the verdict.
        again: the score now.
        other: what is not as it was, such as the build, in words.
        missing: why it cannot be replayed.
        lack: what is missing, for programs.
    """

    job_id: str
    answer: Answer
    score: float | None = None
    again: float | None = None
    other: tuple[str, ...] = ()
    missing: str | None = None
    lack: Lack | None = None

    def __str__(self) -> str:
        """One line. Scores have all their digits."""
        if self.answer is Answer.IMPOSSIBLE:
            return f"{self.job_id}: {self.answer}: {self.missing}"
        now = "" if self.answer is Answer.SAME else f" then, {self.again!r} now{_relative(self.score, self.again)}"
        return f"{self.job_id}: {self.answer}, {self.score!r}{now}" + "".join(f"; {text}" for text in self.other)


class Banks(Protocol):
    """Where banks are found: see `patchline.banks.past_versions.PastVersions`."""

    def find(self, category: str, version: str | None, name: str | None) -> FoundBank: ...


class Missing(Exception):
    """Something that a replay needs is not there. The text says what."""

    def __init__(self, lack: Lack, text: str) -> None:
        super().__init__(text)
        self.lack = lack


@dataclass(frozen=True)
class Judging:
    """What judges the verdicts of a bank again, and the folder of the bank."""

    inspector: Inspector
    folder: Path


@dataclass(frozen=True)
class Again:
    """A replay, and what it was made with. `judging`, `inspection` and `image` are None if it is impossible.

    `image` is encoded, with its content type.
    """

    replay: Replay
    judging: Judging | None = None
    inspection: Inspection | None = None
    image: tuple[bytes, str] | None = None


class Replayer:
    """Replays one job after the other, on one thread.

    Args:
        settings: the configuration, for the folder of models and the limits of images.
        device: to judge on.
        archive: with the verdicts.
        pictures: the rows of the pictures.
        store: their bytes.
        banks: finds the banks.
        cpus: that a model on the CPU may use; None: all.
    """

    def __init__(
        self,
        settings: config.Config,
        device: backbone.Device,
        archive: Archive,
        pictures: PictureIndex,
        store: Store,
        banks: Banks,
        cpus: int | None = None,
    ) -> None:
        self._settings, self._device = settings, device
        self._archive, self._pictures, self._store, self._banks = archive, pictures, store, banks
        self._cpus = cpus
        self._judging: dict[tuple[str, str | None, str | None, str | None], Judging] = {}
        self._networks: dict[tuple[str, int, str], backbone.Backbone] = {}

    def replay(self, job_id: str) -> Replay:
        """Judge the picture of a job again.

        Raises:
            Unavailable: the database of the archive does not answer.
        """
        return self.judge(job_id).replay

    def judge(self, job_id: str, with_heat_map: bool = False) -> Again:
        """Judge the picture of a job again, and return the inspection, too. See `replay` for the errors.

        Args:
            job_id: of the verdict and the picture.
            with_heat_map: make a heat map of a part that passes, too.
        """
        try:
            verdict = self._verdict(job_id)
            row, image = self._image(job_id)
            judging = self._judging_of(verdict)
            inspection = judging.inspector.inspect(image, row.content_type, untimed, with_heat_map)
        except Missing as missing:
            return Again(Replay(job_id, Answer.IMPOSSIBLE, missing=str(missing), lack=missing.lack))
        except JobError as error:
            text = f"the image cannot be inspected here ({error.detail})"
            return Again(Replay(job_id, Answer.IMPOSSIBLE, missing=text, lack=Lack.IMAGE))
        same = inspection.score == verdict.score and verdict.scores in (None, inspection.scores)
        here = judged_with.of(judging.inspector.backbone, self._device.kind)
        other = (*differences(verdict, str(self._device), here), *_other_decision(verdict, inspection))
        answer = Answer.SAME if same else Answer.OTHER
        replay = Replay(job_id, answer, verdict.score, inspection.score, other)
        return Again(replay, judging, inspection, (image, row.content_type))

    def close(self) -> None:
        """Release the device."""
        for network in self._networks.values():
            network.close()

    def _verdict(self, job_id: str) -> Verdict:
        record = self._archive.get(job_id)
        if record is None:
            raise Missing(Lack.VERDICT, "the archive has no verdict on it")
        try:
            verdict = Verdict.model_validate_json(record.document, extra=messages.UNKNOWN_FIELDS)
        except pydantic.ValidationError as error:
            raise Missing(Lack.VERDICT, f"its verdict cannot be read ({messages.describe(error)})") from error
        if verdict.score is None:
            raise Missing(Lack.SCORE, f"its verdict is {verdict.decision} and has no score")
        return verdict

    def _image(self, job_id: str) -> tuple[PictureRow, bytes]:
        rows = [row for row in self._pictures.of_job(job_id) if row.kind == picture_message.IMAGE]
        if not rows:
            raise Missing(
                Lack.IMAGE, "the image is missing: the archive did not keep it, or it was deleted by age or space"
            )
        row = rows[0]
        try:
            image = self._store.get(row.digest)
        except StoreUnavailable as error:
            raise Missing(Lack.IMAGE, f"the image cannot be read ({error})") from error
        if image is None:
            raise Missing(Lack.IMAGE, f"the image is missing: the store has lost {row.digest}")
        if hashlib.sha256(image).hexdigest() != row.digest:
            raise Missing(Lack.IMAGE, f"the image is damaged: the store has other bytes as {row.digest}")
        return row, image

    def _judging_of(self, verdict: Verdict) -> Judging:
        precision = None if verdict.judged_with is None else verdict.judged_with.precision
        key = (verdict.category, verdict.bank_version, verdict.memory_bank, precision)
        if key not in self._judging:
            self._judging[key] = self._load(verdict, precision)
        return self._judging[key]

    def _load(self, verdict: Verdict, precision: str | None) -> Judging:
        try:
            found = self._banks.find(verdict.category, verdict.bank_version, verdict.memory_bank)
        except SetupError as error:
            raise Missing(Lack.BANK, f"the bank is missing: {error}") from error
        bank = found.bank
        recipe, used = self._recipe(bank.manifest), precision or bank.manifest.precision
        try:
            network = self._network(bank.manifest, used)
            serving.check_match(verdict.category, recipe, network, self._device, bank.manifest)
        except SetupError as error:
            raise Missing(Lack.MODEL, f"the model is missing or another one: {error}") from error
        return Judging(Inspector(recipe, self._settings.images, network, bank.with_pruning()), found.folder)

    def _recipe(self, bank: BankManifest) -> config.Category:
        """Return the recipe of a bank, with the smallest region to draw, which no bank has."""
        now = self._settings.categories.get(bank.category)
        recipe = recipe_of(bank)
        return recipe if now is None else recipe.model_copy(update={"min_region_pixels": now.min_region_pixels})

    def _network(self, bank: BankManifest, precision: str) -> backbone.Backbone:
        models = self._settings.paths.models
        name = _model_of(models, bank.backbone, bank.source_sha256 or bank.backbone_sha256)
        key = (name, bank.imagesize, precision)
        if key not in self._networks:
            wanted = pydantic.TypeAdapter(model_manifest.Precision).validate_python(precision)
            self._networks[key] = loading.load(models, name, bank.imagesize, self._device, 1, wanted, self._cpus)
        return self._networks[key]


def recipe_of(bank: BankManifest) -> config.Category:
    """Return the recipe of a bank. That of the configuration may have changed since."""
    names = ("backbone", "layer", "resize", "imagesize", "score", "bit_depth", "bit_alignment")
    return config.Category(**{name: getattr(bank, name) for name in names})


def differences(verdict: Verdict, device: str, here: JudgedWith) -> list[str]:
    """Say what judged then and is another here, in words. A verdict of an earlier build says less."""
    then = verdict.judged_with
    if then is None:
        return ["the verdict does not say which build, processor and precision it is of"]
    names: tuple[tuple[str, Callable[[JudgedWith], str]], ...] = (
        ("build", lambda one: one.build),
        ("packages", lambda one: one.packages),
        ("processor", lambda one: one.processor),
        ("precision", lambda one: one.precision),
        ("model", lambda one: one.model_sha256[:12]),
    )
    found = [f"other {name}: {get(then)} then, {get(here)} now" for name, get in names if get(then) != get(here)]
    kind, kind_here = verdict.device.partition(":")[0], device.partition(":")[0]
    return found + ([f"other device: {verdict.device} then, {device} now"] if kind != kind_here else [])


def _other_decision(verdict: Verdict, inspection: Inspection) -> list[str]:
    if inspection.decision is verdict.decision:
        return []
    return [f"other decision: {verdict.decision} then, {inspection.decision} now"]


def _model_of(models: Path, name: str, sha256: str) -> str:
    """Return the name of the model with a digest. If no model has it, that name: the error tells the digests."""
    names = [name, *sorted(path.stem for path in models.glob("*.json"))]
    for candidate in names:
        try:
            if model_manifest.read(models, candidate).sha256 == sha256:
                return candidate
        except SetupError:  # other files of JSON, or no such model
            continue
    return name


def _relative(score: float | None, again: float | None) -> str:
    return f" ({abs(again - score) / score:.1e} of it)" if score and again is not None else ""
