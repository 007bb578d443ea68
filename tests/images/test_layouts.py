"""Every layout of folders that people have, and what is said of what is left out of them."""

import os

import PIL.Image
import pytest
from conftest import ROOT, rows_of
from test_label_files import NIPS_HEADER, listed, make

from suite.images.folders import EMBEDDED, list_images

A_CSV = ("labels.csv", "filename,label\na.png,1\n")
A_NIPS = ("dev_dataset.csv", NIPS_HEADER + "a,u,0,0,1,1,2,3\n")


@pytest.mark.parametrize(
    ("files", "expected", "said"),
    [
        (  # Tiny-ImageNet
            [
                "n01443537/images/n01443537_0.JPEG",
                ("n01443537/n01443537_boxes.txt", "n01443537_0.JPEG\t0\t10\t63\t58\n"),
            ],
            [("n01443537_0.png", 1)],
            "left out of {}: 1 files that are not images",
        ),
        (  # ImageNet
            ["n01440764/ILSVRC2012_val_00000293.JPEG", "n15075141/n15075141_1.JPEG"],
            [("n01440764_ILSVRC2012_val_00000293.png", 0), ("n15075141_1.png", 999)],
            None,
        ),
        (  # Stanford Dogs
            ["n02085620-Chihuahua/a.jpg", "n01440764 tench/b.jpg"],
            [("n01440764 tench_b.png", 0), ("n02085620-Chihuahua_a.png", 151)],
            None,
        ),
        (  # torchvision's ImageFolder
            ["dog/a.png", "Zebra/a.png", "cat/images/a.png"],
            [("Zebra_a.png", 0), ("cat_a.png", 1), ("dog_a.png", 2)],
            "{}: its folders, sorted by name as in torchvision's ImageFolder, are taken for the "
            "classes, Zebra for 0 to dog for 2",
        ),
        (  # a class may be called anything else than a number
            ["10/a.png", "9/a.png", "x/a.png"],
            [("10_a.png", 0), ("9_a.png", 1), ("x_a.png", 2)],
            "10 for 0 to x for 2",
        ),
        (
            ["0/a.png", "2/a.png", "10/b.PNG", "999/a.png", ("logs/a.txt", "")],
            [("0_a.png", 0), ("10_b.png", 10), ("2_a.png", 2), ("999_a.png", 999)],
            "{}: the names of its folders, 0 to 999, are taken for class indices",
        ),
        (
            ["0/a.png", ("1/x.txt", ""), ("logs/x.txt", "")],
            [("0_a.png", 0)],
            "1 folders in it, 1 class folders without images, such as 1",
        ),
        (["007/a.png"], [("007_a.png", 7)], "007 to 007, are taken for class indices"),
        (["5000/a.png"], [("5000_a.png", 5000)], "are taken for class indices"),
        (  # a Mac's archive
            ["ant/a.png", "bee/a.png", ("__MACOSX/ant/._a.png", ""), (".git/x", "")],
            [("ant_a.png", 0), ("bee_a.png", 1)],
            "ant for 0 to bee for 1",
        ),
    ],
)
def test_folders_are_classes(tmp_path, caplog, files, expected, said):
    caplog.set_level("INFO")
    make(tmp_path, *files)
    assert [(name, label) for name, label, _ in listed(tmp_path)] == expected
    assert (said or "").format(tmp_path) in caplog.text
    assert said or not caplog.text


@pytest.mark.parametrize("place", [".", "val"])
@pytest.mark.parametrize("image", ["n01443537_a.png", "n01443537/n01443537_a.png"])
@pytest.mark.parametrize(
    "text", [NIPS_HEADER + "n01443537_a,u,0,0,1,1,9,8\n", "class_index,image_name\n9,n01443537_a\n"]
)
def test_names_of_synsets_say_more_than_a_csv_that_happens_to_be_there(
    tmp_path, place, image, text
):
    make(tmp_path, f"val/{image}", (f"{place}/some.csv", text))
    assert listed(tmp_path / "val") == [("n01443537_a.png", 1, None)]


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["cat/a.png"], "images in .*cat alone: give that folder"),
        (["adv/a.png", "images/a.png"], "adv and images are not classes: give one of them"),
        (["train/a.png", "val/a.png"], "train and val are not classes: give one of them"),
        (["ant/a.png", "bee/deep/a.png", "cow/a.png"], "no images in .*bee: .* all of its folders"),
        (
            ["ant/a.png", "b/a.png", ("logs/x.txt", "")],
            "no images in .*logs: .* all of its folders",
        ),
        (["train/n01440764/a.png", "val/n01440764/a.png"], "no images in .*2 folders"),
        ([("a/labels.csv", "filename,label\n"), "a/a.png", "b/a.png"], "a has labels of its own"),
        ([("0/run.json", "{}"), "0/a.png", "1/a.png"], "0 has labels of its own"),
        (["1/a.png", "01/a.png"], "01 and .*1 are one class"),
        (["n99999999-x/a.png"], "n99999999 is not one of ImageNet's 1000 classes"),
        ([("a.txt", ""), ("b.gif", "")], "no images in .*2 files that are not images"),
        (["._a.png", ".b.png"], "no images in .*2 hidden files"),
        (["a_b/c.png", "a/b_c.png"], "would both become a_b_c.png"),
        (["with\nnewline.png", "with\nnewline.jpg"], r"would both become 'with\\nnewline.png'"),
        (["\xf1.png", "n\u0303.png"], "would both become \xf1.png"),
        ([os.fsdecode(b"\xff.png")], "must be valid UTF-8"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path, files, words):
    make(tmp_path, *files)
    with pytest.raises(ValueError, match=words) as error:
        list_images(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "jfif", "JFIF", "tif", "TIF", "Tiff"])
def test_suffix_of_any_case_is_an_image(tmp_path, suffix):
    assert listed(make(tmp_path, f"a.{suffix}")) == [("a.png", None, None)]


@pytest.mark.parametrize(
    ("files", "words", "level"),
    [
        (["a.png"], None, None),
        (["a.png", ("run.json", "{}"), A_CSV], None, None),
        (["a.png", (".DS_Store", ""), (".lock", ""), (".a.png.12.part", "")], None, None),
        (["a.png", ("notes.txt", ""), ("b.gif", "")], "2 files that are not images", "INFO"),
        (["a.png", "more/b.png", "yet more/b.png"], "2 folders in it", "WARNING"),
        (["a.png", "._a.png"], "1 hidden files", "WARNING"),
        (["n01440764/a.png", "b.png"], "1 images outside its folders", "WARNING"),
        (["n01440764/a.png", "extra/b.png"], "1 folders in it", "WARNING"),
        (
            ["n01440764/a.png", ("n01443537/x.txt", ""), ("n01484850/images/x.txt", "")],
            "2 class folders without images, such as n01443537",
            "WARNING",
        ),
        (["n01440764/a.png", "n01440764/old/b.png"], "1 folders in it", "WARNING"),
        (["images/a.png", "b.png", A_CSV], "1 images outside its images/", "WARNING"),
        (["images/a.png", "b/a.png", A_NIPS], "1 folders in it", "WARNING"),
        (
            ["a.png", (A_NIPS[0], A_NIPS[1] + "b,u,0,0,1,1,2,3\n")],
            "1 rows of dev_dataset.csv without an image",
            "WARNING",
        ),
        (["a.png", "more/b.png", ("x.txt", "")], "1 files that are not images, 1 folders", None),
    ],
)
def test_what_is_left_out_is_counted_in_one_line(tmp_path, caplog, files, words, level):
    caplog.set_level("INFO")
    assert len(list_images(make(tmp_path, *files))) == 1
    lines = [record for record in caplog.records if "left out" in record.message]
    assert len(lines) == len(caplog.records) == bool(words)
    for line in lines:
        assert line.message.startswith(f"left out of {tmp_path}: ")
        assert words in line.message
        assert line.levelname == (level or "WARNING")


def test_embedded_images_are_the_listed_ones_wherever_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = rows_of(ROOT / "data" / "nips2017" / "dev_dataset.csv")
    listed = {f"{r['ImageId']}.png": (int(r["TrueLabel"]), int(r["TargetClass"])) for r in rows}
    embedded = list_images(EMBEDDED)
    assert len(rows) == len(listed) == 100
    assert {i.name: (i.label + 1, i.target + 1) for i in embedded} == listed
    assert [image.name for image in embedded] == sorted(listed)
    for row in rows:
        assert row["Author"]
        assert "flickr.com/" in row["OriginalLandingURL"]
        assert row["License"] == "https://creativecommons.org/licenses/by/2.0/"


def test_embedded_images_are_of_one_size_and_small_enough_for_a_repository():
    files = [image.path for image in list_images(EMBEDDED)]
    for file in files:
        with PIL.Image.open(file) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (299, 299))
    assert sum(file.stat().st_size for file in files) <= 5_000_000
