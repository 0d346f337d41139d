"""A replay of archived pictures: the same score, another one, or what is missing. With a real bank and model."""

import pytest

from patchline import config
from patchline.archive import rows
from patchline.archive.memory import MemoryArchive
from patchline.archive.pictures import MemoryPictures
from patchline.archive.store import MemoryStore
from patchline.banks import serving
from patchline.banks.past_versions import PastVersions
from patchline.broker.base import Message
from patchline.devices.backbone import CPU
from patchline.inspection import judged_with
from patchline.inspection.inspector import untimed
from patchline.operations import closer_look
from patchline.operations.look_result import Answer, Lack
from patchline.operations.replay import Replayer
from patchline.protocol import messages
from patchline.protocol.messages import Decision, Verdict
from tests.picture_contract import row

NOW = 1_800_000_000_000


class Scene:
    """An archive with one reject, the settings of its plant, and what replays it."""

    def __init__(self, settings, image):
        self.settings, self.image = settings, image
        self.archive, self.pictures, self.store = MemoryArchive(), MemoryPictures(), MemoryStore()
        inspector = serving.load(settings, ["brick"], CPU, 1)["brick"]
        inspection = inspector.inspect(image, "image/png", untimed)
        self.verdict = Verdict(
            job_id="job-1",
            line="l1",
            category="brick",
            part_id="p",
            decision=inspection.decision,
            score=inspection.score,
            scores=inspection.scores,
            thresholds=inspector.thresholds,
            backbone=inspector.backbone.manifest.name,
            memory_bank=inspector.bank.name,
            bank_version=inspector.bank.digest,
            judged_with=judged_with.of(inspector.backbone, "cpu"),
            device="cpu:0",
            worker="w",
            attempt=1,
            received_at=NOW,
            decided_at=NOW,
        )
        picture = row("job-1", body=image)
        self.pictures.add([picture])
        self.store.put(picture.digest, image)

    def keep(self, **changes):
        document = self.verdict.model_copy(update=changes).to_json()
        self.archive.save([rows.record(Message(document, "job-1", messages.VERDICT_TYPE), NOW)], [])

    def replay(self):
        return self.with_replayer(lambda replayer: replayer.replay("job-1"))

    def look(self, job_id="job-1"):
        return self.with_replayer(lambda replayer: closer_look.look(replayer, job_id))

    def with_replayer(self, act):
        with PastVersions(self.settings) as banks:
            return act(Replayer(self.settings, CPU, self.archive, self.pictures, self.store, banks, cpus=1))


@pytest.fixture
def scene(plant, texture_folder):
    return Scene(config.load(plant / "config.yaml"), (texture_folder / "test" / "scratch" / "033.png").read_bytes())


def test_the_score_travels_with_all_its_digits_and_a_replay_gives_it_again(scene):
    scene.keep()
    result = scene.replay()
    assert scene.verdict.decision is Decision.FAIL
    assert (result.answer, result.again, result.other) == (Answer.SAME, scene.verdict.score, ())
    assert str(result) == f"job-1: same score, {scene.verdict.score!r}"


def test_a_verdict_of_an_earlier_build_is_replayed_by_the_name_of_its_bank(scene):
    scene.keep(bank_version=None, judged_with=None, scores=None)
    result = scene.replay()
    assert result.answer is Answer.SAME
    assert result.other == ("the verdict does not say which build, processor and precision it is of",)


def test_another_score_is_told_with_what_is_not_as_it_was(scene):
    then = scene.verdict.judged_with.model_copy(update={"processor": "another one", "build": "0.0.1"})
    scene.keep(score=scene.verdict.score * 1.5, judged_with=then)
    text = str(scene.replay())
    assert scene.replay().answer is Answer.OTHER
    assert f"another score, {scene.verdict.score * 1.5!r} then, {scene.verdict.score!r} now (3.3e-01 of it)" in text
    assert f"other build: 0.0.1 then, {judged_with.build()} now" in text
    assert "other processor: another one then" in text


def test_the_recipe_is_that_of_the_bank_and_not_that_of_the_configuration_now(scene):
    scene.keep()
    other = scene.settings.categories["brick"].model_copy(update={"resize": 160, "score": "max"})
    scene.settings = scene.settings.model_copy(update={"categories": {"other": other}})
    assert scene.replay().answer is Answer.SAME


def without_picture(scene, tmp_path):
    scene.pictures = MemoryPictures()
    return "the image is missing: the archive did not keep it"


def without_bytes(scene, tmp_path):
    scene.store = MemoryStore()
    return "the image is missing: the store has lost"


def with_damaged_bytes(scene, tmp_path):
    (digest,) = scene.store.list()
    scene.store.put(digest, scene.image + b"0")
    return "the image is damaged"


def without_bank(scene, tmp_path):
    paths = scene.settings.paths.model_copy(update={"memory_banks": tmp_path})
    scene.settings = scene.settings.model_copy(update={"paths": paths})
    return "the bank is missing: version"


def with_another_model(scene, tmp_path):
    manifest = (scene.settings.paths.models / "efficientnet_lite0.json").read_text()
    other = (scene.settings.paths.models / "efficientnet_lite0.onnx").read_bytes() + b"\0"
    digest = scene.verdict.judged_with.model_sha256
    (tmp_path / "efficientnet_lite0.onnx").write_bytes(other)
    (tmp_path / "efficientnet_lite0.json").write_text(manifest.replace(digest, "0" * 64))
    paths = scene.settings.paths.model_copy(update={"models": tmp_path})
    scene.settings = scene.settings.model_copy(update={"paths": paths})
    return "the model is missing or another one"


@pytest.mark.parametrize(
    "change", [without_picture, without_bytes, with_damaged_bytes, without_bank, with_another_model]
)
def test_what_is_missing_for_a_replay_is_named(scene, tmp_path, change):
    scene.keep()
    text = change(scene, tmp_path)
    result = scene.replay()
    assert result.answer is Answer.IMPOSSIBLE
    assert text in result.missing
    look = scene.look()
    assert (look.missing, look.heat_map, look.comparison) == (result.missing, None, None)
    assert look.lack == {"without_bank": Lack.BANK, "with_another_model": Lack.MODEL}.get(change.__name__, Lack.IMAGE)


def test_a_verdict_without_a_score_and_a_job_without_a_verdict_cannot_be_replayed(scene):
    assert scene.replay().missing == "the archive has no verdict on it"
    scene.keep(score=None, scores=None, decision=Decision.EXPIRED)
    assert scene.replay().missing == "its verdict is expired and has no score"
