"""Images that are added to the folds of a memory bank and removed: equal to everything computed from scratch."""

from pathlib import Path

import numpy as np
import pytest

from patchline import config
from patchline.banks import calibration, coreset, fit, good_images, growth, store
from patchline.banks.choices import NO_CHOICES
from patchline.banks.folds import FILE, Folds, require_undamaged
from patchline.banks.held_out import LARGEST, HeldOut
from patchline.banks.hottest import KEPT, Judged
from patchline.banks.looks import Look
from patchline.banks.recipe import Recipe
from patchline.devices import backbone
from patchline.inspection import memory_bank
from patchline.inspection.search import exact_search
from patchline.protocol.errors import SetupError
from patchline.runtime import terminal

IMAGES, PATCHES, DIM, SEED = 24, 90, 140, 3
TARGET = calibration.Target(0.05, 0.1, "review")


class InMemory(Recipe):
    """Good images whose features are made up."""

    def features(self, progress, title):
        return iter(FEATURES[: len(self.paths)])


def made_up_features():
    """Float32 [images, patches, dim]: each image has patches of its own kind among common ones."""
    rng = np.random.default_rng(0)
    places = rng.normal(0, 1, (PATCHES, DIM))
    images = places + rng.normal(0, 0.4, (IMAGES + 4, PATCHES, DIM))
    images[:, :6] += rng.normal(0, 0.5, (IMAGES + 4, 1, DIM))
    return (images + 5).astype(np.float32)


FEATURES = made_up_features()


def look(number):
    rng = np.random.default_rng(number)
    detail = rng.random((64, 64), np.float32).astype(np.float16).astype(np.float32)
    return Look(Path(f"/good/{number:02}.png"), rng.bytes(32), (64, 64), detail, False, 1)


def fitted(groups=None):
    groups = np.arange(IMAGES) if groups is None else np.array(groups)
    looks = tuple(look(number) for number in range(IMAGES))
    good = good_images.GoodImages([each.path for each in looks], groups, [], looks=looks)
    category = config.Category(
        backbone="none", layer="none", resize=64, imagesize=64, coreset_ratio=0.05, false_reject_rate=0.05
    )
    recipe = InMemory(None, "part", category, None, backbone.CPU, Path("/good"), good, NO_CHOICES, TARGET, True)
    with terminal.progress() as progress:
        return fit.make_draft(recipe, SEED, progress).folds(recipe)


@pytest.fixture(scope="module")
def folds():
    return fitted()


def add(folds, number, group=None):
    larger, _ = growth.add(folds, growth.NewImage(f"{number:02}.png", look(number), group), FEATURES[number], SEED)
    return growth.judge_again(larger, growth.unsure(larger), lambda image: features_of(larger, image))


def remove(folds, *numbers):
    smaller, stale = growth.remove(folds, numbers)
    return growth.judge_again(smaller, stale, lambda image: features_of(smaller, image))


def features_of(folds, number):
    return FEATURES[int(Path(folds.names[number]).stem)]


def held_out_from_scratch(folds):
    """All images, compared with the bank without their group: every distance of every patch."""
    largest = []
    for number, group in enumerate(folds.groups):
        distances, _ = exact_search.exact_nearest(features_of(folds, number), folds.rows.without(int(group))[0])
        largest.append(np.sort(distances)[::-1][:LARGEST])
    return HeldOut(folds.names, folds.groups, np.array(largest))


def assert_as_from_scratch(folds, target=TARGET):
    kept, scratch = folds.held_out(), held_out_from_scratch(folds)
    assert np.array_equal(kept.largest, scratch.largest)
    both = [calibration.calibrate(each, "topk10", target, "leave-one-group-out") for each in (kept, scratch)]
    assert both[0] == both[1]
    for image, patch, row in zip(folds.rows.image, folds.rows.patch, folds.rows.features, strict=True):
        assert np.array_equal(features_of(folds, image)[patch], row)
    for group in range(int(folds.groups.max()) + 1):
        assert not (folds.groups[folds.rows.without(group)[1]] == group).any()


def test_a_fit_keeps_the_largest_distances_to_the_last_digit(folds):
    assert_as_from_scratch(folds)
    assert all(judged.is_exact for judged in folds.judged)


def test_the_radius_is_the_largest_distance_of_a_candidate_to_the_bank(folds):
    points, bank = (coreset.project(each, SEED) for each in (FEATURES[:IMAGES].reshape(-1, DIM), folds.rows.bank()))
    assert folds.radius == pytest.approx(exact_search.exact_nearest(points, bank)[0].max(), rel=1e-3)


def test_thresholds_after_additions_and_removals_are_those_from_scratch(folds):
    for step in (
        lambda folds: add(folds, 24),
        lambda folds: add(folds, 25),
        lambda folds: remove(folds, 3, 17),
        lambda folds: add(folds, 26, group=5),
        lambda folds: remove(folds, folds.names.index("25.png")),
        lambda folds: add(folds, 3),
        lambda folds: remove(folds, folds.names.index("26.png")),
    ):
        folds = step(folds)
        assert_as_from_scratch(folds)
    assert len(folds.names) == IMAGES


def test_each_bank_takes_the_patches_that_it_does_not_cover_and_keeps_its_rows(folds):
    larger = add(folds, 24)
    assert np.array_equal(larger.rows.bank()[: folds.rows.members[0].sum()], folds.rows.bank())
    taken = plain_cover(folds.rows.bank(), folds.radius)
    assert 0 < len(taken) < PATCHES
    of_image = larger.rows.image == IMAGES
    for bank, members in enumerate(larger.rows.members[:-1]):
        old = folds.rows.features[folds.rows.members[bank]]
        assert set(larger.rows.patch[of_image & members]) == set(plain_cover(old, folds.radius))
    without_it, images = larger.rows.without(IMAGES)
    assert np.array_equal(without_it, folds.rows.bank())
    assert IMAGES not in images


def plain_cover(bank, radius):
    """The greedy rule, one patch at a time, in float64."""
    points, rows = (coreset.project(each, SEED).astype(np.float64) for each in (FEATURES[24], bank))
    nearest = ((points[:, None] - rows[None]) ** 2).sum(axis=2).min(axis=1)
    taken = []
    while nearest.max() > radius:
        taken.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((points - points[taken[-1]]) ** 2).sum(axis=1))
    return taken


def test_an_image_that_joins_a_group_is_judged_without_that_group(folds):
    larger = add(folds, 24, group=7)
    assert larger.groups[-1] == 7
    assert len(larger.rows.members) == len(folds.rows.members)
    assert not {7, IMAGES} & set(larger.rows.without(7)[1].tolist())
    assert np.array_equal(larger.judged[7].distances, folds.judged[7].distances)


def test_removing_an_image_that_was_added_gives_the_bank_before_it(folds):
    again = remove(add(folds, 24), IMAGES)
    assert np.array_equal(again.rows.bank(), folds.rows.bank())
    assert np.array_equal(again.rows.members, folds.rows.members)
    assert np.array_equal(again.held_out().largest, folds.held_out().largest)
    assert [each.leans_on.tolist() for each in again.judged] == [each.leans_on.tolist() for each in folds.judged]


def test_the_order_in_which_images_are_removed_does_not_matter(folds):
    both, one_by_one = remove(folds, 2, 9), remove(remove(folds, 9), 2)
    assert np.array_equal(both.rows.bank(), one_by_one.rows.bank())
    assert np.array_equal(both.held_out().largest, one_by_one.held_out().largest)


def test_an_image_of_a_group_can_go_and_the_group_stays():
    folds = fitted([number // 2 for number in range(IMAGES)])
    smaller = remove(folds, 4)
    assert smaller.groups[4] == 2  # the other picture of the part
    assert int(smaller.groups.max()) == int(folds.groups.max())
    assert_as_from_scratch(smaller, calibration.Target(0.1, 0.1, "review"))


def test_the_last_two_groups_stay(folds):
    with pytest.raises(SetupError, match="fewer than two images"):
        growth.remove(folds, range(IMAGES - 1))


def test_an_image_is_judged_again_when_too_many_of_its_hottest_patches_cool():
    """A new row that is equal to the hottest patches of an image says nothing about those that were not kept."""
    patches, bank = np.diag(np.arange(1, PATCHES + 1)).astype(np.float32), np.zeros((1, PATCHES), np.float32)
    judged, _ = Judged.by(patches, bank, np.zeros(1, np.int32))
    assert judged.features.shape == (KEPT, PATCHES)
    assert judged.with_rows(judged.features[:LARGEST]).is_exact
    assert not judged.with_rows(judged.features[: LARGEST + 1]).is_exact


def test_equal_patches_are_judged_to_the_last_digit():
    """Rounding must not hide which patches are the hottest, even if all of them are equally far."""
    patches = np.repeat(FEATURES[0][:1], PATCHES, axis=0)
    judged, distances = Judged.by(patches, FEATURES[1], np.zeros(PATCHES, np.int32))
    assert np.array_equal(judged.distances, exact_search.exact_nearest(patches, FEATURES[1])[0][:KEPT])
    assert judged.is_exact
    assert distances.size == PATCHES


def saved(folds, tmp_path, named=False):
    bank = folds.rows.bank()
    for name, content in folds.files("a" * 64).items():
        (tmp_path / name).write_bytes(content)
    manifest = memory_bank.BankManifest.model_construct(
        category="part", index_sha256="a" * 64, calibration=memory_bank.Calibration.model_construct(method="")
    )
    if named:
        manifest = manifest.model_copy(update={"folds_sha256": store.digest((tmp_path / FILE).read_bytes())})
    return memory_bank.MemoryBank(exact_search.brute_force(bank), manifest)


def test_the_file_gives_the_same_folds_again(folds, tmp_path):
    larger = remove(add(folds, 24), 5)
    read = Folds.load(tmp_path, saved(larger, tmp_path))
    assert np.array_equal(read.rows.bank(), larger.rows.bank())
    assert np.array_equal(read.held_out().largest, larger.held_out().largest)
    assert (read.names, read.radius, read.patches_per_image) == (larger.names, larger.radius, larger.patches_per_image)
    assert [each.sha256 for each in read.looks] == [each.sha256 for each in larger.looks]
    assert [each.path for each in read.looks] == [each.path for each in larger.looks]
    assert all(np.array_equal(one.detail, two.detail) for one, two in zip(read.looks, larger.looks, strict=True))
    first, second = add(read, 25), add(larger, 25)
    assert np.array_equal(first.held_out().largest, second.held_out().largest)
    assert_as_from_scratch(remove(first, 0))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda path: path.unlink(), "is of an earlier build, and keeps nothing to add or remove images with"),
        (lambda path: path.write_bytes(path.read_bytes()[:1000]), "is damaged"),
        (lambda path: path.write_bytes(b""), "is damaged"),
    ],
)
def test_a_bank_without_its_folds_says_to_fit_again(folds, tmp_path, change, text):
    bank = saved(folds, tmp_path)
    change(tmp_path / FILE)
    with pytest.raises(SetupError, match=text) as raised:
        Folds.load(tmp_path, bank)
    assert "fit it again with: patchline fit --category part FOLDER" in str(raised.value)


def test_folds_are_the_ones_that_the_manifest_names(folds, tmp_path):
    """A manifest of an earlier build names none."""
    bank = saved(folds, tmp_path, named=True)
    assert np.array_equal(Folds.load(tmp_path, bank).rows.bank(), folds.rows.bank())
    require_undamaged(tmp_path, bank.manifest)
    others = remove(folds, 5).files("a" * 64)[FILE]
    (tmp_path / FILE).write_bytes(others)
    for read in (lambda: Folds.load(tmp_path, bank), lambda: require_undamaged(tmp_path, bank.manifest)):
        with pytest.raises(SetupError, match=r"folds\.npz: is not the file that the manifest describes"):
            read()
    (tmp_path / FILE).unlink()
    require_undamaged(tmp_path, bank.manifest)
    with pytest.raises(SetupError, match=r"has lost its folds\.npz"):
        Folds.load(tmp_path, bank)


def test_the_folds_of_another_bank_are_refused(folds, tmp_path):
    bank = saved(folds, tmp_path)
    for name, content in folds.files("b" * 64).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(SetupError, match="belongs to another memory bank"):
        Folds.load(tmp_path, bank)
