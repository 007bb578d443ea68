"""Batches of arrays, as TA-Bench and linbp-attack leave them, become a folder of PNGs."""

import json
import os

import numpy as np
import PIL.Image
import pytest
from conftest import pixels_of
from small import ATTACK

from suite.images.folders import list_images
from suite.images.labels import write_labels

PIXELS = np.random.default_rng(0).integers(0, 256, (25, 3, 4, 6), np.uint8)
UNPACK = "unpack_arrays --input-dir {x} --output-dir {x}/out"


def write(folder, sizes=(2,) * 12 + (1,), labels=None, dtype=np.uint8, pixels=PIXELS):
    start = 0
    for number, size in enumerate(sizes):
        np.save(folder / f"batch_{number}.npy", pixels[start : start + size].astype(dtype))
        start += size
    if labels is not None:
        np.save(folder / "labels.npy", np.asarray(labels))
    return folder


def assert_unpacked(folder, names):
    """The PNGs in out are PIXELS, under these names in the order of the batches."""
    read = pixels_of(folder / "out")
    assert sorted(read) == sorted(names)
    for name, pixels in zip(names, PIXELS, strict=False):
        assert np.array_equal(read[name], pixels.transpose(1, 2, 0))


def labels(folder):
    return {image.name: image.label for image in list_images(folder / "out")}


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_images_come_in_the_order_of_the_batches_numbers(run, tmp_path, dtype):
    status, out, _ = run(UNPACK, x=write(tmp_path, labels=range(25), dtype=dtype))
    assert (status, out) == (0, f"{tmp_path}/out: 25 images, 25 labels\n")
    assert_unpacked(tmp_path, [f"{number:06d}.png" for number in range(25)])
    assert labels(tmp_path) == {f"{number:06d}.png": number for number in range(25)}


@pytest.mark.parametrize(
    ("file", "rows", "expected"),
    [
        (
            "rand_3.csv",  # TA-Bench's
            "class_index,class,image_name\n915,n04613696,ILSVRC2012_val_00023809.JPEG\n"
            "368,n02483362,ILSVRC2012_val_00010482.JPEG\n1,n01443537,a.JPEG\n",
            {"ILSVRC2012_val_00023809.png": 915, "ILSVRC2012_val_00010482.png": 368, "a.png": 1},
        ),
        (
            "labels.csv",
            "filename,label\nc.jpg,7\nb.png,3\na.png,5\n",
            {"c.png": 7, "b.png": 3, "a.png": 5},
        ),
    ],
)
@pytest.mark.parametrize("labelled", [True, False])
def test_label_file_beside_batches_names_their_images_in_the_order_of_its_rows(
    run, tmp_path, file, rows, expected, labelled
):
    write(tmp_path, (2, 1), list(expected.values()) if labelled else None)
    (tmp_path / file).write_text(rows)
    assert run(UNPACK, x=tmp_path)[0] == 0
    assert_unpacked(tmp_path, list(expected))
    assert labels(tmp_path) == expected


def natural(folder, count):
    (folder / "nat").mkdir()
    names = [f"{letter}.png" for letter in "abcd"[:count]]
    for name in names:
        PIL.Image.new("RGB", (6, 4)).save(folder / "nat" / name)
    rows = [{"filename": f, "label": 7 + n, "target": 900 + n} for n, f in enumerate(names)]
    write_labels(folder / "nat", rows)
    return names


@pytest.mark.parametrize("labelled", [True, False])
def test_natural_images_give_names_and_classes_to_unnamed_ones(run, tmp_path, labelled):
    names = natural(tmp_path, 3)
    write(tmp_path, (2, 1), [7, 8, 9] if labelled else None)
    assert run(f"{UNPACK} --names-from {{x}}/nat", x=tmp_path)[0] == 0
    assert_unpacked(tmp_path, names)
    listed = [(i.label, i.target) for i in list_images(tmp_path / "out")]
    assert listed == [(7, 900), (8, 901), (9, 902)]


@pytest.mark.parametrize(
    ("count", "labelled", "reason"),
    [
        (3, [9, 8, 7], "a is image 0 of {x}, of the label 7, but 9 in labels.npy"),
        (4, None, "3 images in its batches, but there are 4 natural ones: d.png has no partner"),
        (2, None, "are 2 natural ones: image 2 of the batches has no partner"),
    ],
)
def test_natural_images_that_do_not_fit_are_refused(run, tmp_path, count, labelled, reason):
    natural(tmp_path, count)
    write(tmp_path, (2, 1), labelled)
    status, _, err = run(f"{UNPACK} --names-from {{x}}/nat", x=tmp_path)
    assert status == 1
    assert reason.format(x=tmp_path) in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "pixels", [PIXELS[:2] / 255, np.full((2, 3, 4, 6), np.nan, np.float32), -PIXELS.astype(int)]
)
def test_pixels_that_are_no_levels_are_refused_by_batch_and_image(run, tmp_path, pixels):
    np.save(write(tmp_path, (2, 2)) / "batch_1.npy", pixels)
    status, _, err = run(UNPACK, x=tmp_path)
    assert status == 1
    assert "batch_1.npy, image 0: its pixels are not whole" in err
    with pytest.raises(ValueError, match="out is unfinished: .* give it again, with --overwrite"):
        list_images(tmp_path / "out")
    write(tmp_path, (2, 2))
    assert "has images: take another folder, or --overwrite them" in run(UNPACK, x=tmp_path)[2]
    assert run(f"{UNPACK} --overwrite", x=tmp_path)[0] == 0
    assert_unpacked(tmp_path, [f"{number:06d}.png" for number in range(4)])
    assert set(labels(tmp_path).values()) == {None}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: [file.unlink() for file in f.glob("batch_*")], "has no batch_0.npy"),
        (lambda f: (f / "batch_1.npy").unlink(), "has batch_12.npy, but no batch_1.npy"),
        (lambda f: np.save(f / "batch_01.npy", PIXELS), "batch_1.npy have the same number"),
        (lambda f: np.save(f / "batch_1.npy", PIXELS.transpose(0, 2, 3, 1)), "25x4x6x3, not N x 3"),
        (lambda f: np.save(f / "batch_1.npy", PIXELS > 9), "batch_1.npy has bool"),
        (lambda f: np.save(f / "batch_1.npy", {}, allow_pickle=True), "not a readable array"),
        (lambda f: (f / "batch_1.npy").write_bytes(b""), "batch_1.npy is not a readable array"),
        (lambda f: os.truncate(f / "batch_1.npy", 150), "batch_1.npy is not a readable array"),
        (lambda f: np.save(f / "labels.npy", [1, 2]), "has 2 labels, but the batches have 25"),
        (lambda f: np.save(f / "labels.npy", [0.5] * 25), "not a row of class indices"),
        (lambda f: np.save(f / "labels.npy", [-1] * 25), "not a row of class indices"),
        (lambda f: write_labels(f, [{"filename": "a", "label": 1}]), "1 rows, but the batches 25"),
        (
            lambda f: write_labels(f, [{"filename": n, "label": 24 - n} for n in range(25)]),
            "0 is image 0 of {x}, of the label 24, but 0 in labels.npy",
        ),
    ],
)
def test_batches_and_labels_that_do_not_fit_are_refused(run, tmp_path, spoil, reason):
    spoil(write(tmp_path, labels=range(25)))
    status, _, err = run(UNPACK, x=tmp_path)
    assert status == 1
    assert reason.format(x=tmp_path) in err
    assert not (tmp_path / "out").exists()


def test_unpacked_images_give_the_numbers_of_the_same_pngs(run, folder):
    assert run(f"{ATTACK}ten", x=folder)[0] == 0
    pixels = np.stack(list(pixels_of(folder / "adv").values())).transpose(0, 3, 1, 2)
    write(folder, (4, 2), pixels=pixels)
    assert run(f"{UNPACK} --names-from {{x}}/nat", x=folder)[0] == 0
    evaluate = "evaluate --nat-dir {x}/nat --arch {x}/nets.py:ten --json --input-dir"
    adv, out = json.loads(run(f"{evaluate} {{x}}/adv {{x}}/out", x=folder)[1])
    for key in ("images", "targets", "largest_perturbation"):
        assert adv[key] == out[key]
