"""The contact sheet of held-out images, the worst first."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from patchline import config
from patchline.banks import review
from patchline.banks.choices import Choices
from patchline.banks.held_out import HeldOut
from patchline.protocol.errors import OutliersError

PATCHES = 16


def category():
    return config.Category(backbone="net", layer="layer2", resize=64, imagesize=64)


@pytest.fixture
def recipe(tmp_path):
    """Thirty good images, as a fit has them."""
    paths = [tmp_path / "good" / f"{number:02}.png" for number in range(30)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        path.write_bytes(cv2.imencode(".png", np.full((40, 60, 3), number, np.uint8))[1])
    return SimpleNamespace(
        name="part",
        folder=paths[0].parent,
        paths=paths,
        category=category(),
        settings=SimpleNamespace(images=config.Images()),
        model=SimpleNamespace(grid=(4, 4)),
        choices=Choices(out=tmp_path / "out"),
    )


def judged(recipe, scores):
    """The held-out images with these scores, and the distances that give them."""
    distances = np.repeat(np.asarray(scores, np.float32)[:, None], PATCHES, axis=1)
    return HeldOut(tuple(path.name for path in recipe.paths), np.arange(len(scores)), distances), list(distances)


def test_the_worst_image_comes_first_and_is_compared_with_the_highest_of_the_others(recipe):
    scores = np.linspace(1, 2, 30)
    scores[7] = 20
    images, sheet = review.review(recipe, *judged(recipe, scores))
    assert (images[0].name, images[0].score, images[0].verdict) == ("07.png", pytest.approx(10), "outlier")
    assert [image.verdict for image in images[1:]] == [""] * 29
    assert images[1].score == 1.0
    assert cv2.imread(str(sheet)) is not None


def test_images_with_equal_pixels_and_an_outlier_are_no_division_by_zero(recipe):
    scores = np.zeros(30)
    scores[3] = 5
    with pytest.raises(OutliersError, match=r"1 of 30 images in .* stand out, .*: 03.png \(1.00\)"):
        review.require_no_outliers(recipe, *judged(recipe, scores))


def test_images_that_are_all_equal_are_reviewed(recipe):
    images, _ = review.review(recipe, *judged(recipe, np.zeros(30)))
    assert {image.score for image in images} == {0.0}


def test_many_outliers_are_named_up_to_ten_and_counted(recipe):
    more = [recipe.paths[0]] * 170
    recipe.paths = [*recipe.paths, *more]
    held_out, distances = judged(recipe, np.concatenate([np.linspace(1, 2, 185), np.linspace(50, 60, 15)]))
    with pytest.raises(OutliersError, match=r"15 of 200 images .* and 5 more") as caught:
        review.require_no_outliers(recipe, held_out, distances)
    assert caught.value.exit_code == 1
