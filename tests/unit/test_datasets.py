"""The layouts of public data sets, each as a tiny one."""

import json

import numpy as np
import pytest

from patchline.banks.row_origins import FILE, RowOrigins
from patchline.evaluation import datasets, train_copies
from patchline.protocol.errors import SetupError


def make(folder, *names):
    """Make files; none is opened here."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def listing(folder, dataset):
    """Kind and masks by image, relative to a folder."""
    return {
        str(image.path.relative_to(folder)): (image.kind, [str(mask.relative_to(folder)) for mask in image.masks])
        for image in dataset.images
    }


def mvtec(folder):
    make(folder, "train/good/000.png", "test/good/000.png", "test/scratch/000.png", "test/scratch/001.png")
    make(folder, "ground_truth/scratch/000_mask.png", "ground_truth/scratch/001_mask.png")


def test_mvtec_ad(tmp_path):
    mvtec(tmp_path)
    dataset = datasets.read(tmp_path)
    assert dataset.layout == "MVTec AD"
    assert dataset.kinds == ["good", "scratch"]
    assert dataset.notes == []
    assert listing(tmp_path, dataset) == {
        "test/good/000.png": ("good", []),
        "test/scratch/000.png": ("scratch", ["ground_truth/scratch/000_mask.png"]),
        "test/scratch/001.png": ("scratch", ["ground_truth/scratch/001_mask.png"]),
    }


def test_mvtec_ad_2(tmp_path):
    make(tmp_path, "train/good/000_regular.png", "validation/good/000_regular.png")
    make(tmp_path, "test_public/good/000_regular.png", "test_public/bad/000_shift_1.png")
    make(tmp_path, "test_public/ground_truth/bad/000_shift_1_mask.png", "test_private/000_regular.png")
    make(tmp_path, "test_private_mixed/000_mixed.png")
    dataset = datasets.read(tmp_path)
    assert dataset.layout == "MVTec AD 2"
    assert listing(tmp_path, dataset) == {
        "test_public/good/000_regular.png": ("good", []),
        "test_public/bad/000_shift_1.png": ("bad", ["test_public/ground_truth/bad/000_shift_1_mask.png"]),
    }
    assert [note.rpartition("/")[2] for note in dataset.notes] == [
        "test_private: not used, it has no labels",
        "test_private_mixed: not used, it has no labels",
    ]


def test_mvtec_loco_ad(tmp_path):
    make(tmp_path, "train/good/000.png", "validation/good/000.png", "test/good/000.png")
    make(tmp_path, "test/logical_anomalies/000.png", "test/structural_anomalies/000.png")
    make(tmp_path, "ground_truth/logical_anomalies/000/000.png", "ground_truth/logical_anomalies/000/001.png")
    make(tmp_path, "ground_truth/structural_anomalies/000/000.png")
    entries = [
        {"defect_name": "missing", "pixel_value": 255, "saturation_threshold": 40, "relative_saturation": False},
        {"defect_name": "broken", "pixel_value": 254, "saturation_threshold": 0.5, "relative_saturation": True},
    ]
    (tmp_path / "defects_config.json").write_text(json.dumps(entries))
    dataset = datasets.read(tmp_path)
    assert dataset.layout == "MVTec LOCO AD"
    assert listing(tmp_path, dataset)["test/logical_anomalies/000.png"] == (
        "logical_anomalies",
        ["ground_truth/logical_anomalies/000/000.png", "ground_truth/logical_anomalies/000/001.png"],
    )
    assert dataset.saturations == {255: datasets.Saturation(40.0, False), 254: datasets.Saturation(0.5, True)}
    assert dataset.notes == []


def test_a_broken_list_of_defects_is_named(tmp_path):
    mvtec(tmp_path)
    (tmp_path / "defects_config.json").write_text('[{"pixel_value": 1}]')
    with pytest.raises(SetupError, match=r"defects_config\.json: is no list of defects"):
        datasets.read(tmp_path)


def visa(folder):
    make(folder, "candle/Data/Images/Normal/0000.JPG", "candle/Data/Images/Normal/0001.JPG")
    make(folder, "candle/Data/Images/Anomaly/000.JPG", "candle/Data/Images/Anomaly/001.JPG")
    make(folder, "candle/Data/Masks/Anomaly/000.png", "candle/Data/Masks/Anomaly/001.png")
    (folder / "candle/image_anno.csv").write_text(
        "image,label,mask\n"
        "candle/Data/Images/Normal/0000.JPG,normal,\n"
        "candle/Data/Images/Anomaly/000.JPG,melted wax,candle/Data/Masks/Anomaly/000.png\n"
        'candle/Data/Images/Anomaly/001.JPG,"chunk of wax missing,other",candle/Data/Masks/Anomaly/001.png\n'
    )


def test_visa_with_its_split(tmp_path):
    visa(tmp_path)
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv/1cls.csv").write_text(
        "object,split,label,image,mask\n"
        "candle,train,normal,candle/Data/Images/Normal/0000.JPG,\n"
        "candle,test,normal,candle/Data/Images/Normal/0001.JPG,\n"
        "candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png\n"
        "candle,test,anomaly,candle/Data/Images/Anomaly/001.JPG,candle/Data/Masks/Anomaly/001.png\n"
        "pcb1,test,normal,pcb1/Data/Images/Normal/0001.JPG,\n"
    )
    dataset = datasets.read(tmp_path / "candle")
    assert dataset.layout == "VisA"
    assert listing(tmp_path, dataset) == {
        "candle/Data/Images/Normal/0001.JPG": ("good", []),
        "candle/Data/Images/Anomaly/000.JPG": ("melted wax", ["candle/Data/Masks/Anomaly/000.png"]),
        "candle/Data/Images/Anomaly/001.JPG": ("combined", ["candle/Data/Masks/Anomaly/001.png"]),
    }


def test_visa_without_its_split_says_that_all_images_are_used(tmp_path):
    visa(tmp_path)
    dataset = datasets.read(tmp_path / "candle")
    assert len(dataset.images) == 4
    assert dataset.notes == [
        f"{tmp_path / 'split_csv/1cls.csv'}: missing, so all images are test images; fit on others"
    ]


def test_btad(tmp_path):
    make(tmp_path, "train/ok/0000.bmp", "test/ok/0001.bmp", "test/ko/0000.bmp", "ground_truth/ko/0000.png")
    dataset = datasets.read(tmp_path)
    assert dataset.layout == "BTAD"
    assert listing(tmp_path, dataset) == {
        "test/ok/0001.bmp": ("good", []),
        "test/ko/0000.bmp": ("ko", ["ground_truth/ko/0000.png"]),
    }


@pytest.mark.parametrize("place", ["realiad_jsons/realiad_jsons/pcb.json", "realiad_jsons/pcb.json"])
def test_real_iad(tmp_path, place):
    folder = tmp_path / "realiad_1024" / "pcb"
    make(folder, "OK/S0001/a.jpg", "NG/HS/S0002/b.jpg", "NG/HS/S0002/b.png")
    entries = [
        {"category": "pcb", "anomaly_class": "OK", "image_path": "OK/S0001/a.jpg", "mask_path": None},
        {
            "category": "pcb",
            "anomaly_class": "HS",
            "image_path": "NG/HS/S0002/b.jpg",
            "mask_path": "NG/HS/S0002/b.png",
        },
    ]
    document = {"meta": {"normal_class": "OK", "prefix": "pcb/"}, "train": [], "test": entries}
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_text(json.dumps(document))
    dataset = datasets.read(folder)
    assert dataset.layout == "Real-IAD"
    assert listing(folder, dataset) == {
        "OK/S0001/a.jpg": ("good", []),
        "NG/HS/S0002/b.jpg": ("HS", ["NG/HS/S0002/b.png"]),
    }


@pytest.mark.parametrize("content", ["[]", "{", '{"meta": {}, "test": []}'])
def test_a_broken_list_of_real_iad_is_named(tmp_path, content):
    folder = tmp_path / "realiad_1024" / "pcb"
    make(folder, "OK/a.jpg", "pcb.json")
    (folder / "pcb.json").write_text(content)
    with pytest.raises(SetupError, match=r"pcb\.json: is no"):
        datasets.read(folder)


@pytest.mark.parametrize("name", ["000_mask.bmp", "000_mask.PNG", "000.bmp", "000.TIF", "000.png"])
def test_a_mask_has_any_suffix_of_an_image(tmp_path, name):
    make(tmp_path, "test/good/000.png", "test/scratch/000.jpg", f"ground_truth/scratch/{name}")
    dataset = datasets.read(tmp_path)
    assert listing(tmp_path, dataset)["test/scratch/000.jpg"] == ("scratch", [f"ground_truth/scratch/{name}"])


def test_images_of_equal_names_in_subfolders_have_their_own_masks(tmp_path):
    make(tmp_path, "test/good/000.png", "test/scratch/left/000.png", "test/scratch/right/000.png")
    make(tmp_path, "ground_truth/scratch/left/000_mask.png", "ground_truth/scratch/right/000.png")
    found = listing(tmp_path, datasets.read(tmp_path))
    assert found["test/scratch/left/000.png"][1] == ["ground_truth/scratch/left/000_mask.png"]
    assert found["test/scratch/right/000.png"][1] == ["ground_truth/scratch/right/000.png"]


def test_a_mask_for_two_images_of_equal_names_is_refused(tmp_path):
    make(tmp_path, "test/good/000.png", "test/scratch/left/000.png", "test/scratch/right/000.png")
    make(tmp_path, "ground_truth/scratch/000_mask.png")
    with pytest.raises(SetupError, match=r"scratch/000_mask\.png: .*left/000\.png or .*right/000\.png"):
        datasets.read(tmp_path)


def test_two_masks_for_one_image_are_refused(tmp_path):
    make(tmp_path, "test/good/000.png", "test/scratch/000.png")
    make(tmp_path, "ground_truth/scratch/000.png", "ground_truth/scratch/000.bmp")
    with pytest.raises(SetupError, match=r"000\.bmp, 000\.png: several masks for 000\.png"):
        datasets.read(tmp_path)


def test_masks_that_are_missing_are_counted_and_one_is_named(tmp_path):
    mvtec(tmp_path)
    (tmp_path / "ground_truth/scratch/001_mask.png").unlink()
    with pytest.raises(SetupError, match=r"ground_truth/scratch: 1 masks are missing, such as for 001\.png"):
        datasets.read(tmp_path)


def test_masks_whose_names_fit_no_image_are_refused(tmp_path):
    make(tmp_path, "test/good/000.png", "test/scratch/part-7.png", "ground_truth/scratch/gt7.png")
    with pytest.raises(SetupError, match=r"1 masks are missing, such as for part-7\.png"):
        datasets.read(tmp_path)


def test_what_is_not_used_is_said(tmp_path):
    mvtec(tmp_path)
    make(tmp_path, "test/dent/000.png", "test/scratch/readme.txt", "test/scratch/Thumbs.db", "test/empty/note.md")
    make(tmp_path, "raw/000.png", "ground_truth/hole/000.png", "ground_truth/scratch/009_mask.png")
    make(tmp_path, "test/.cache/000.png", "test/@eaDir/000.png")
    notes = [note.replace(f"{tmp_path}/", "") for note in datasets.read(tmp_path).notes]
    assert notes == [
        "test/empty: has no image",
        "test/empty: 1 files are no images, such as note.md",
        "ground_truth/scratch: 1 masks without an image, such as 009_mask.png",
        "test/scratch: 2 files are no images, such as Thumbs.db",
        f"ground_truth/hole: not used, there is no {tmp_path}/test/hole".replace(f"{tmp_path}/", ""),
        "raw: not used",
        "no masks for dent: left out of the pixel figures",
    ]


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ((), "needs test/good"),
        (("test/good/000.png",), "at least one folder of defects"),
        (("test/scratch/000.png",), "at least one folder of defects"),
        (("train/good/000.png",), "needs test/good"),
    ],
)
def test_a_folder_of_another_layout_is_refused(tmp_path, names, error):
    make(tmp_path, *names)
    with pytest.raises(SetupError, match=error):
        datasets.read(tmp_path)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(SetupError, match="no such folder"):
        datasets.read(tmp_path / "gone")


def fitted_bank(folder, *paths):
    """Make a bank that was fitted with images."""
    folder.mkdir(parents=True)
    origins = RowOrigins(paths, np.zeros(1, np.int32), np.zeros(1, np.int32))
    (folder / FILE).write_bytes(origins.encode())
    return folder


def test_test_images_that_were_in_the_fit_are_counted_wherever_the_fit_read_them(tmp_path):
    data, fitted = tmp_path / "data", [tmp_path / "elsewhere" / f"{number}.png" for number in range(3)]
    make(data, "test/good/000.png", "test/good/001.png", "test/scratch/000.png")
    for number, name in enumerate(("test/good/000.png", "test/good/001.png", "test/scratch/000.png")):
        (data / name).write_bytes(b"%d" % number)
        fitted[number].parent.mkdir(exist_ok=True)
        fitted[number].write_bytes(b"%d" % (number + 1))
    dataset = datasets.read(data)
    train_copies.note_copies(dataset, data, fitted_bank(tmp_path / "bank", *fitted))
    assert dataset.images_in_fit == 2
    (note,) = dataset.notes
    assert note.startswith("2 of 3 test images were in the fit of this bank, 1 of them as good ones, such as ")
    assert note.endswith(f"{data}/test/good/001.png of {fitted[0]}: the figures are too good; remove them")


def test_no_test_image_of_the_fit_is_a_zero_and_an_unknown_fit_is_none(tmp_path):
    data = tmp_path / "data"
    make(data, "test/good/000.png", "test/scratch/000.png")
    other = tmp_path / "other.png"
    other.write_bytes(b"other")
    dataset = datasets.read(data)
    counts = []
    for number, fitted in enumerate(([other], [tmp_path / "gone.png"], None)):
        bank = tmp_path / "none" if fitted is None else fitted_bank(tmp_path / f"bank{number}", *fitted)
        train_copies.note_copies(dataset, data, bank)
        counts.append(dataset.images_in_fit)
    assert (counts, dataset.notes) == ([0, None, None], [])
