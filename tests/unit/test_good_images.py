"""Which good images are used, and which belong together."""

import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from patchline import config
from patchline.banks import fit, good_images, looks
from patchline.banks.choices import Choices
from patchline.protocol.errors import SetupError, UnreadableError

RECIPE = {"backbone": "efficientnet_lite0", "layer": "blocks4+10", "resize": 64, "imagesize": 64}
BY_PART = r"([^/]+)_[^_/]*$"


def category(**changes):
    return config.Category.model_validate(RECIPE | changes)


def decode(path):
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB))


def collect(folder, recipe):
    return good_images.collect(folder, recipe, decode)


def write_noise(path, seed, side=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        cv2.imencode(path.suffix, np.random.default_rng(seed).integers(0, 255, (side, side), np.uint8))[1].tobytes()
    )


@pytest.fixture
def folder(tmp_path):
    """Three parts with two images each."""
    for seed, name in enumerate(("a_1", "a_2", "b_1", "b_2", "c_1", "c_2")):
        write_noise(tmp_path / "good" / f"{name}.png", seed)
    return tmp_path / "good"


def test_without_a_rule_each_image_is_a_group(folder):
    good = collect(folder, category())
    assert good.groups.tolist() == [0, 1, 2, 3, 4, 5]
    assert good.describe() == "6 good images"


def test_exact_copies_are_left_out_and_named(folder):
    shutil.copy(folder / "a_1.png", folder / "z.png")
    shutil.copytree(folder, folder / "again")
    good = collect(folder, category())
    assert len(good.paths) == 6
    assert {left_out.reason for left_out in good.left_out} == {good_images.EXACT_COPIES}
    assert good.report() == f"6 good images\nleft out: 8 exact copies, such as {folder}/again/a_1.png"


def surface(seed, side=200, with_frame=True):
    """Blots in front of a frame that all parts have."""
    rng = np.random.default_rng(seed)
    picture = 128 + 40 * cv2.GaussianBlur(rng.normal(size=(side, side)), (0, 0), 3) / 0.1
    if with_frame:
        picture[90:110] = 30
        picture[:, 20:25] = 250
    return cv2.cvtColor(np.clip(picture, 0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)


def save(path, picture, *options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, picture, options)[1])


@pytest.fixture
def surfaces(tmp_path):
    """Twelve pictures that differ."""
    for seed in range(12):
        save(tmp_path / "good" / f"{seed:02}.png", surface(seed))
    return tmp_path / "good"


def move(picture, dx, dy):
    return cv2.warpAffine(picture, np.array([[1, 0, dx], [0, 1, dy]], np.float32), picture.shape[1::-1], borderMode=4)


def half(picture):
    return cv2.resize(picture, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)


def with_noise(picture):
    return np.clip(picture + np.random.default_rng(5).normal(0, 3, picture.shape), 0, 255).astype(np.uint8)


NEAR_DUPLICATES = {
    "JPEG q95": (".jpg", lambda picture: picture, (cv2.IMWRITE_JPEG_QUALITY, 95)),
    "JPEG q80": (".jpg", lambda picture: picture, (cv2.IMWRITE_JPEG_QUALITY, 80)),
    "resized": (".png", half, ()),
    "moved": (".png", lambda picture: move(picture, 1, -1), ()),
    "moved by less than a pixel": (".png", lambda picture: move(picture, 0.4, 0.3), ()),
    "brighter": (".png", lambda picture: cv2.convertScaleAbs(picture, alpha=0.9, beta=10), ()),
    "taken again": (".png", with_noise, ()),
}


@pytest.mark.parametrize("kind", NEAR_DUPLICATES)
def test_a_near_duplicate_is_in_the_group_of_its_picture(surfaces, kind):
    suffix, change, options = NEAR_DUPLICATES[kind]
    for seed in (3, 7):
        save(surfaces / f"x{seed}{suffix}", change(surface(seed)), *options)
    good = collect(surfaces, category())
    assert good.groups.tolist()[:12] == list(range(12))
    assert good.groups.tolist()[12:] == [3, 7]
    assert good.describe() == "14 good images in 12 groups, with 4 near-duplicates"
    assert collect(surfaces, category(near_duplicates="ignore")).groups.tolist() == list(range(14))


@pytest.mark.parametrize("distance", [3, 6, 10])
def test_a_surface_that_was_moved_is_recognised(tmp_path, distance):
    for seed in range(12):
        save(tmp_path / "good" / f"{seed:02}.png", surface(seed, with_frame=False))
    save(tmp_path / "good" / "x.png", move(surface(4, with_frame=False), distance, -distance // 2))
    assert collect(tmp_path / "good", category()).groups.tolist() == [*range(12), 4]


def cell(seed, side=300):
    """A grid that all parts have, with faint blots that differ."""
    blots = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(side, side)), (0, 0), 4)
    picture = 120 + 2.5 * blots / blots.std()
    picture[:, ::60] = picture[:, 1::60] = 230
    picture[::100] = picture[1::100] = 20
    return cv2.cvtColor(np.clip(cv2.GaussianBlur(picture, (0, 0), 0.8), 0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)


def test_a_part_in_a_fixture_that_is_taken_again_a_pixel_away_is_recognised(tmp_path):
    for seed in range(24):
        save(tmp_path / "good" / f"{seed:02}.png", cell(seed))
    for seed in range(0, 24, 3):
        save(tmp_path / "good" / f"x{seed:02}.png", move(cell(seed), 1, -1))
    assert collect(tmp_path / "good", category()).groups.tolist() == [*range(24), *range(0, 24, 3)]


def test_all_pictures_twice_are_half_as_many_groups(surfaces):
    for seed in range(12):
        save(surfaces / f"x{seed:02}.jpg", surface(seed), cv2.IMWRITE_JPEG_QUALITY, 95)
    assert collect(surfaces, category()).groups.tolist() == [*range(12), *range(12)]


def test_near_duplicates_join_the_groups_of_their_parts(surfaces):
    save(surfaces / "x3.jpg", surface(3))
    good = collect(surfaces, category(group_by=r"(.)\.(?:png|jpg)$"))
    assert good.group_count == 10
    assert good.groups[-1] == good.groups[3]


def test_the_same_pixels_in_another_format_are_a_copy(surfaces):
    save(surfaces / "x3.bmp", surface(3))
    good = collect(surfaces, category())
    assert good.report() == f"12 good images\nleft out: 1 exact copies, such as {surfaces}/x3.bmp"


def test_thumbnails_and_much_smaller_pictures_are_left_out_with_their_names(surfaces):
    save(surfaces / "03_thumb.png", cv2.resize(surface(3), (64, 64), interpolation=cv2.INTER_AREA))
    save(surfaces / "logo.png", surface(99, side=40))
    good = collect(surfaces, category())
    assert [path.name for path in good.paths] == [f"{seed:02}.png" for seed in range(12)]
    assert [(left_out.path.name, left_out.reason) for left_out in good.left_out] == [
        ("logo.png", looks.MUCH_SMALLER),
        ("03_thumb.png", looks.THUMBNAILS),
    ]


HIDDEN_FOLDERS = (".ipynb_checkpoints", ".Trash-1000", "@eaDir", "#recycle", ".thumbnails", "Thumbs", "__MACOSX/deeper")


def test_hidden_and_system_folders_are_left_out_with_their_names(folder):
    for seed, name in enumerate(HIDDEN_FOLDERS):
        write_noise(folder / name / "7.png", 100 + seed)
    write_noise(folder / "._a_1.png", 200)
    (folder / ".hidden" / "notes.txt").parent.mkdir()
    (folder / ".hidden" / "notes.txt").touch()
    good = collect(folder, category())
    assert len(good.paths) == 6
    assert {str(left_out.path.relative_to(folder)) for left_out in good.left_out} == {
        *(f"{name}/7.png" for name in HIDDEN_FOLDERS),
        "._a_1.png",
    }
    assert "left out: 8 hidden, partial, or in system folders, such as " in good.report()


@pytest.mark.parametrize("parent", [".hidden", "@eaDir", "thumbs", "test", "defect"])
def test_a_folder_is_used_whatever_its_parents_are_called(folder, tmp_path, parent):
    target = tmp_path / parent / "good"
    shutil.copytree(folder, target)
    good = collect(target, category())
    assert (len(good.paths), good.left_out) == (6, [])


def fixtured(seed, noise):
    """A printed part, always the same, with jitter, changing light, and the noise of a camera."""
    rng, side = np.random.default_rng(seed), 200
    part = np.full((side, side), 90, np.float32)
    shapes = np.random.default_rng(0).integers(10, side - 20, (30, 4))
    for x, y, width, height in shapes.tolist():
        cv2.rectangle(part, (x, y), (x + width // 4, y + height // 4), (x * y) % 230, -1)
    part = move(cv2.GaussianBlur(part, (0, 0), 1.2), *rng.uniform(-1.5, 1.5, 2))
    part = part * (1 + rng.normal(0, 0.05) + rng.normal(0, 0.05) * np.linspace(-1, 1, side))
    picture = np.clip(part + rng.normal(0, noise, part.shape), 0, 255).astype(np.uint8)
    return cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)


@pytest.mark.parametrize("noise", [1, 3])
def test_parts_that_only_differ_by_place_light_and_noise_stay_apart(tmp_path, noise):
    for seed in range(60):
        save(tmp_path / "good" / f"{seed:02}.png", fixtured(seed, noise))
    good = collect(tmp_path / "good", category())
    assert good.group_count == 60, good.describe()


def test_a_pattern_names_the_part_of_each_image(folder):
    good = collect(folder, category(group_by=BY_PART))
    assert good.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert good.describe() == "6 good images in 3 groups"


def test_a_pattern_that_does_not_fit_an_image_is_refused_with_its_name(folder):
    write_noise(folder / "other.png", 9)
    with pytest.raises(SetupError, match="names no group for 1 of 7 images, such as other"):
        collect(folder, category(group_by=BY_PART))


@pytest.mark.parametrize("pattern", ["(", "no parentheses", "(two)(pairs)"])
def test_a_pattern_without_one_group_is_refused_by_the_configuration(pattern):
    with pytest.raises(ValueError, match=r"regular expression|one pair of parentheses"):
        category(group_by=pattern)


def test_a_table_names_the_part_of_each_image(folder, tmp_path):
    table = tmp_path / "parts.csv"
    table.write_text("path,group\n" + "".join(f"{path.name},{path.name[2]}\n" for path in sorted(folder.iterdir())))
    good = collect(folder, category(group_table=table))
    assert good.groups.tolist() == [0, 1, 0, 1, 0, 1]


@pytest.mark.parametrize("text", ["", "a_1.png,1", "path,group", "path,group\na_1.png,1", "path,group\na_1.png"])
def test_a_table_without_an_image_is_refused(folder, tmp_path, text):
    table = tmp_path / "parts.csv"
    table.write_text(text)
    with pytest.raises(SetupError, match=r"path,group|names no group for"):
        collect(folder, category(group_table=table))


def test_a_missing_table_is_named(folder, tmp_path):
    with pytest.raises(SetupError, match=r"gone.csv: cannot be read"):
        collect(folder, category(group_table=tmp_path / "gone.csv"))


def test_a_subset_keeps_the_images_and_their_groups():
    good = good_images.GoodImages(["a", "b", "c", "d"], np.array([0, 1, 1, 2]), []).subset([1, 2, 3])
    assert (good.paths, good.groups.tolist()) == (["b", "c", "d"], [0, 0, 1])


def test_one_group_only_is_refused_in_words():
    with pytest.raises(SetupError, match="group_by or group_table of the category name several groups"):
        fit._require_several_groups(np.array([0, 0, 0]))
    fit._require_several_groups(np.array([0, 1]))


def test_more_images_than_patches_are_refused_in_words():
    with pytest.raises(SetupError, match="set max_patches of the category to 1001 or more"):
        fit.patches_per_image(category(max_patches=1000), 1001)


def test_files_of_formats_that_are_not_read_are_named_by_their_kind(folder):
    for name in (
        "phone/IMG_1.HEIC",
        "phone/IMG_2.heic",
        "IMG_3.MOV",
        "Thumbs.db",
        "desktop.ini",
        ".DS_Store",
        "table.csv",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(
            "path,group\n" + "".join(f"{part}_{view}.png,{part}\n" for part in "abc" for view in "12")
        )
    good = collect(folder, category(group_table=folder / "table.csv"))
    assert good.report().splitlines() == [
        "6 good images in 3 groups",
        f"left out: 1 .mov files, which are not read, such as {folder}/IMG_3.MOV",
        f"left out: 2 .heic files, which are not read, such as {folder}/phone/IMG_1.HEIC",
    ]


def unreadable(*names):
    """A decoder that cannot read some of the images."""

    def read(path):
        if path.name in names:
            raise UnreadableError(f"{path}: it is truncated")
        return decode(path)

    return read


def test_all_images_that_cannot_be_read_are_named_at_once_with_the_command_that_leaves_them_out(folder):
    write_noise(folder / "d 1.png", 20)
    with pytest.raises(SetupError) as error:
        good_images.collect(folder, category(), unreadable("b_1.png", "d 1.png"))
    assert str(error.value) == (
        f"2 of 7 images cannot be read: {folder}/b_1.png: it is truncated; {folder}/d 1.png: it is truncated. "
        "Repair each or remove it from the folder, or leave it out: --leave-out b_1.png --leave-out 'd 1.png'"
    )


def test_an_image_that_is_left_out_by_a_person_need_not_be_readable(folder):
    choices = Choices(left_out=("b_1.png", "c_1.png"))
    good = good_images.collect(folder, category(), unreadable("b_1.png"), choices.left_out)
    good = choices.apply(folder, good)
    assert [path.name for path in good.paths] == ["a_1.png", "a_2.png", "b_2.png", "c_2.png"]
    assert [(image.path.name, image.reason) for image in good.left_out] == [
        ("b_1.png", good_images.CHOSEN),
        ("c_1.png", good_images.CHOSEN),
    ]


def test_an_image_that_is_both_accepted_and_left_out_is_refused(folder):
    choices = Choices(accepted=("a_1.png", "b_1.png"), left_out=("b_1.png", "c_1.png"))
    good = good_images.collect(folder, category(), decode, choices.left_out)
    with pytest.raises(SetupError, match=r"b_1.png: is named by both --accept and --leave-out; name it by one"):
        choices.apply(folder, good)


def test_images_with_different_exif_orientations_are_pointed_out(folder):
    for seed, tag in enumerate((6, 6, 1), start=30):
        tags = Image.Exif()
        tags[0x0112] = tag
        picture = Image.fromarray(np.random.default_rng(seed).integers(0, 255, (40, 40), np.uint8))
        picture.save(folder / f"phone{seed}.jpg", exif=tags)
    assert "\n2 images have another EXIF orientation than most. It is ignored" in collect(folder, category()).report()
    for path in folder.glob("*.png"):
        path.unlink()
    (folder / "phone32.jpg").unlink()
    assert "EXIF" not in collect(folder, category()).report()  # the camera is mounted that way
