"""Every label file that people have: where it lies, and the names and classes in it."""

import os
import re
import unicodedata
from pathlib import Path

import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_metadata import SLOW

from suite.images.folders import list_images
from suite.images.labels import write_labels

NIPS_HEADER = "ImageId,URL,x1,y1,x2,y2,TrueLabel,TargetClass\n"
TA_HEADER = "class_index,class,image_name\n"
ILSVRC = "ILSVRC2012_val_00002138"


def make(root, *names):
    """Make images, or text files from (name, text); return the root."""
    for name in names:
        name, text = (name, None) if isinstance(name, str) else name
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            PIL.Image.new("RGB", (4, 4)).save(file, "TIFF" if "tif" in file.suffix else "PNG")
        else:
            file.write_text(text, encoding="utf-8")
    return root


def listed(folder):
    return [(image.name, image.label, image.target) for image in list_images(folder)]


NIPS_ROW = "0c7ac4a8c9dfa802,u,0,0,1,1,306,9\n"
NIPS_IMAGE, NIPS_LISTED = "0c7ac4a8c9dfa802.png", ("0c7ac4a8c9dfa802.png", 305, 8)
NIPS_TEXT, SUFFIXED_ROW = NIPS_HEADER + NIPS_ROW, NIPS_ROW.replace(",", ".png,", 1)
TA_ROW, TA_LISTED = f"0,n01440764,{ILSVRC}.JPEG\n", (f"{ILSVRC}.png", 0, None)
TINY_ROW = "val_0.JPEG\tn01443537\t0\t32\t44\t62\n"
OF_A, TA_OF_A = "filename,label\na.png,7\n", f"{TA_HEADER}0,n01440764,a.JPEG\n"
TARGETED = "filename,label,targeted_label\na.png,0,999.0\n"
TWO_TARGETS = "filename,label,target\na.png,7,1\na.png,7,2\n"
OF_JPEG = "filename,label,source\na.jpg,3,b.jpg\n"
LABEL_FILES = {  # file, text, image, expected
    "TransferAttack": ("labels.csv", OF_A, "a.png", ("a.png", 7, None)),
    "TransferAttack, targeted": ("labels.csv", TARGETED, "a.png", ("a.png", 0, 999)),
    "the suite's, of a JPEG": ("labels.csv", OF_JPEG, "a.jpg", ("a.png", 3, None)),
    "NIPS 2017": ("dev_dataset.csv", NIPS_TEXT, NIPS_IMAGE, NIPS_LISTED),
    "Kaggle's NIPS": ("images.csv", NIPS_TEXT, NIPS_IMAGE, NIPS_LISTED),
    "NIPS with suffixes": ("images.csv", NIPS_HEADER + SUFFIXED_ROW, NIPS_IMAGE, NIPS_LISTED),
    "NIPS by another name": ("nips.CSV", NIPS_TEXT, NIPS_IMAGE, NIPS_LISTED),
    "TA-Bench": ("rand_5000.csv", TA_HEADER + TA_ROW, f"{ILSVRC}.JPEG", TA_LISTED),
    "TA-Bench with spaces, and its images as PNGs": (
        "x.csv",
        TA_HEADER.replace(",", ", ") + TA_ROW,
        f"{ILSVRC}.png",
        TA_LISTED,
    ),
    "Tiny-ImageNet's": ("val_annotations.txt", TINY_ROW, "val_0.JPEG", ("val_0.png", 1, None)),
}


@pytest.mark.parametrize(
    ("csv_in", "images_in", "given_folder"),
    [(".", "images", "."), (".", "images", "images"), (".", ".", "."), ("images", "images", None)],
)
@pytest.mark.parametrize("kind", LABEL_FILES)
def test_label_file_lies_beside_the_images_or_beside_their_folder(
    tmp_path, kind, csv_in, images_in, given_folder
):
    file, text, image, expected = LABEL_FILES[kind]
    make(tmp_path / csv_in, (file, text))
    make(tmp_path / images_in, image)
    assert listed(tmp_path / (given_folder or images_in)) == [expected]


def test_folder_with_labels_beside_it_may_be_the_working_folder(tmp_path, monkeypatch):
    make(tmp_path, "images/a.png", ("labels.csv", OF_A))
    monkeypatch.chdir(tmp_path / "images")
    assert listed(Path()) == [("a.png", 7, None)]


@pytest.mark.parametrize("csv_in", [".", "val"])
def test_ta_bench_selects_from_a_folder_and_says_what_it_leaves(tmp_path, caplog, csv_in):
    text = "class_index,class,image_name\n0,n01440764,a.JPEG\n2,n01484850,gone.JPEG\n"
    make(tmp_path, "val/a.JPEG", "val/b.JPEG", "val/c.JPEG", (f"{csv_in}/rand.csv", text))
    caplog.set_level("INFO")
    assert listed(tmp_path / "val") == [("a.png", 0, None)]
    (line,) = caplog.messages
    assert "2 images without a row in rand.csv" in line
    assert "1 rows of rand.csv without an image" in line
    assert "not images" not in line


@pytest.mark.parametrize(
    ("image", "label", "name", "text", "reason"),
    [
        ("a", None, "labels.csv", "filename,label\nother.png,3\n", "it names no image in"),
        ("a", None, "images.csv", NIPS_TEXT, "it names no image in"),
        ("a", None, "rand.csv", f"{TA_HEADER}0,n01440764,other.JPEG\n", "it names no image in"),
        ("n01443537_a", 1, "labels.csv", "id,name\n0,tench\n", ".*columns filename and label"),
    ],
)
def test_label_file_beside_a_folder_that_does_not_fit_is_not_used_and_that_is_said(
    tmp_path, caplog, image, label, name, text, reason
):
    make(tmp_path, f"images/{image}.png", (name, text))
    assert listed(tmp_path / "images") == [(f"{image}.png", label, None)]
    assert re.search(f"{name} is not used: {reason}", caplog.text)


ABSENT, OUTSIDE = "which is not an image in .*images", "is not a label from 1 to 1000"
NO_TARGET = "is not a target class from 1 to 1000"


@pytest.mark.parametrize(
    ("name", "text", "others", "words"),
    [
        ("labels.csv", OF_A, ["images/a.png", "images/b.png"], " has no row for b.png"),
        ("labels.csv", f"{OF_A}c.png,8\n", ["images/a.png"], f" names c.png, {ABSENT}"),
        ("labels.csv", OF_A.replace("png", "jpg"), ["images/a.png"], f" names a.jpg, {ABSENT}"),
        (
            "images.csv",
            NIPS_TEXT.replace("306", "1001"),
            [NIPS_IMAGE],
            f", line 2: '1001' {OUTSIDE}",
        ),
        ("images.csv", NIPS_TEXT.replace(",9", ",0"), [NIPS_IMAGE], f", line 2: '0' {NO_TARGET}"),
        (
            "r.csv",
            TA_OF_A.replace("0,", "1,", 1),
            ["a.JPEG"],
            ", line 2: n01440764 is ImageNet's class 0, not 1",
        ),
        (
            "r.csv",
            TA_OF_A,
            ["a.JPEG", ("s.csv", TA_OF_A)],
            " and .*s.csv both name images in .*: keep one",
        ),
        ("labels.csv", TWO_TARGETS, ["a.png"], " has two targets for a.png"),
        ("labels.csv", "filename,label,label\na.png,1,2\n", ["a.png"], " has 2 columns label"),
        (
            "labels.csv",
            "filename,filename,label\na.png,b,2\n",
            ["a.png"],
            " has 2 columns filename",
        ),
        (
            "labels.csv",
            "filename,label,target,target\na.png,1,2,\n",
            ["a.png"],
            " has 2 columns target",
        ),
        ("x.csv", "ImageId,TrueLabel,TrueLabel\na,1,1\n", ["a.png"], " has 2 columns TrueLabel"),
        ("x.csv", "class_index,image_name,image_name\n1,a,a\n", ["a.png"], " has 2 columns image_"),
        (  # an unquoted comma in the file's name
            "labels.csv",
            "filename,source,label\na.png,x,1\nb.png,1,5,3\n",
            ["a.png", "b.png"],
            ", line 3: 4 cells, but 3 columns",
        ),
        (
            "labels.csv",
            'filename,note,label\na.png,"two\nlines",1\nb.png,,-1\n',
            ["a.png", "b.png"],
            ", line 4: '-1' is not a label",
        ),
        (
            "x.csv",
            "class_index,class,image_name\n0,n01440764,a\n5,n0,b.JPEG\n-1,n0,c\n",
            ["a.png", "b.png", "c.png"],
            ", line 4: '-1' is not a label",
        ),
        (
            "val_annotations.txt",
            "a.png\tn01443537\nb.png\tn0144353\n",
            ["a.png", "b.png"],
            ", line 2: n0144353 is not one of ImageNet's 1000 classes",
        ),
    ],
)
def test_label_file_that_does_not_fit_is_refused_by_name_and_value(
    tmp_path, name, text, others, words
):
    make(tmp_path, (name, text), *others)
    with pytest.raises(ValueError, match=f"{name}{words}") as error:
        list_images(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("label", [0, 999, 1000, 5000, 21840, 203093, 999999])
@pytest.mark.parametrize("column", ["label", "target"])
def test_label_is_a_class_index_of_any_network(tmp_path, label, column):
    row = {"filename": "a.png", "label": 3, column: label}
    write_labels(make(tmp_path, "a.png"), [row])
    (image,) = list_images(tmp_path)
    assert getattr(image, column) == label


@pytest.mark.parametrize(
    "text",
    [
        "filename,label\na.png,7\n,\n",
        "filename,label\n\na.png,7\n\n\n",
        "filename,label\n , \na.png,7\n,,,\n",
        "\n,\nfilename,label\na.png,7\n",
        " filename , label\na.png,7\n",
        "filename,label\na.png,7\n._a.png,7\n",
        "filename,label\r\na.png,7\r\n,\r\n",
        "\ufefffilename,label\na.png,7\n",
        "label,else,filename\n 7 ,x,a.png\n",
        "filename,label\na.png,7\na.png,7\n",
    ],
)
def test_blank_rows_dot_files_and_the_kind_of_csv_do_not_matter(tmp_path, text):
    make(tmp_path, "a.png", ("._a.png", "no image"), ("labels.csv", text))
    assert listed(tmp_path) == [("a.png", 7, None)]


@pytest.mark.parametrize("of_file", ["NFC", "NFD"])
@pytest.mark.parametrize("of_row", ["NFC", "NFD"])
@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labels.csv", "filename,label\nñé.png,7\n"),
        ("dev_dataset.csv", "ImageId,TrueLabel\nñé,8\n"),
        ("x.csv", "class_index,class,image_name\n7,x,ñé.png\n"),
    ],
)
def test_names_are_compared_in_one_normal_form(tmp_path, of_file, of_row, file, text):
    make(tmp_path, unicodedata.normalize(of_file, "ñé.png"))
    make(tmp_path, (file, unicodedata.normalize(of_row, text)))
    # Of one form wherever the images come from: evaluate.py finds natural images by their names.
    assert listed(tmp_path) == [(unicodedata.normalize("NFC", "ñé.png"), 7, None)]


NAMES = st.text(st.characters(exclude_characters="/\\\0", codec="utf-8"), min_size=1, max_size=20)


@SLOW
@given(
    st.dictionaries(NAMES, st.integers(0, 999999), min_size=1, max_size=5),
    st.sampled_from(["\n", "\r\n"]),
    st.lists(st.sampled_from(["", ",", " , ", ",,"]), max_size=3),
    st.sampled_from(["NFC", "NFD"]),
)
def test_labels_of_any_name_are_read(tmp_path_factory, labels, end, blank, form):
    folder = tmp_path_factory.mktemp("labels")
    normal = {unicodedata.normalize("NFC", f"x{name}").encode(): n for name, n in labels.items()}
    labels = {name.decode(): label for name, label in normal.items()}
    for name in labels:
        (folder / f"{name}.png").touch()
    rows = [f'"{name.replace(chr(34), chr(34) * 2)}.png",{label}' for name, label in labels.items()]
    text = end.join(["filename,label", *blank, *rows, *blank, ""])
    (folder / "labels.csv").write_bytes(unicodedata.normalize(form, text).encode())
    assert {i.name: i.label for i in list_images(folder)} == {
        f"{name}.png": label for name, label in labels.items()
    }


def test_only_the_header_of_csv_files_beside_a_folder_is_read(tmp_path):
    make(tmp_path, "images/a.png", ("big.csv", "x,y\n1,2\n"), ("._x.csv", ""))
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\0\0")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "link.csv").symlink_to("nowhere")
    assert listed(tmp_path / "images") == [("a.png", None, None)]


READ = "labels are read from filename and label of labels.csv, or from ImageId and TrueLabel or "


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("classes.csv", "image,class\na.png,1\n", "it has the columns image, class"),
        ("val.csv", "filename,label\na.png,1\n", "it has the columns filename, label"),
        ("Labels.CSV", "filename,label\na.png,1\n", "it has the columns filename, label"),
        ("x.csv", "ImageId;TrueLabel\na;1\n", "it has the columns ImageId;TrueLabel"),
        ("empty.csv", "", "it has the columns ;"),
    ],
)
@pytest.mark.parametrize("place", [".", "images"])
def test_csv_file_that_is_not_read_is_named_with_the_columns_that_are(
    tmp_path, caplog, name, text, reason, place
):
    make(tmp_path, f"{place}/a.png", (name, text))
    caplog.set_level("INFO")
    assert listed(tmp_path / place) == [("a.png", None, None)]
    (line,) = caplog.messages
    assert line.startswith(f"{tmp_path / name} is not used: {reason}")
    assert READ in line


def test_csv_file_in_another_encoding_is_named(tmp_path, caplog):
    make(tmp_path, "a.png")
    (tmp_path / "x.csv").write_bytes("ImageId,TrueLabel\na,1\n".encode("utf-16"))
    assert listed(tmp_path) == [("a.png", None, None)]
    assert "x.csv is not a CSV file in UTF-8" in caplog.text


def test_csv_file_beside_images_that_have_labels_is_not_named(tmp_path, caplog):
    make(tmp_path, "a.png", ("labels.csv", OF_A), ("notes.csv", "image,class\n"))
    caplog.set_level("INFO")
    assert listed(tmp_path) == [("a.png", 7, None)]
    assert caplog.messages == [f"left out of {tmp_path}: 1 files that are not images"]


def sparse(file):
    file.touch()
    os.truncate(file, 5 << 30)


ODD_FILES = [
    (os.mkfifo, "a pipe or a device"),
    (lambda file: file.symlink_to("/dev/zero"), "a pipe or a device"),
    (sparse, "larger than 1024 MiB"),
    (lambda file: file.symlink_to("nowhere"), "No such file"),
    (lambda file: file.mkdir(), "Is a directory"),
]


@pytest.mark.parametrize(("make_odd", "words"), ODD_FILES)
@pytest.mark.parametrize("name", ["labels.csv", "dev_dataset.csv"])
def test_label_file_that_is_not_a_file_is_refused(tmp_path, make_odd, words, name):
    make(tmp_path, "a.png")
    make_odd(tmp_path / name)
    with pytest.raises((ValueError, OSError), match=words) as error:
        list_images(tmp_path)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize(("make_odd", "words"), ODD_FILES[:-1])
def test_csv_file_that_is_not_a_file_is_left_alone_and_named(tmp_path, caplog, make_odd, words):
    make(tmp_path, "a.png")
    make_odd(tmp_path / "x.csv")
    assert listed(tmp_path) == [("a.png", None, None)]
    (line,) = caplog.messages
    assert line.startswith("not used: ")
    assert words in line
    assert f"{tmp_path}/x.csv" in line
