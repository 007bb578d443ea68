"""Images in batches of arrays, as TA-Bench and linbp-attack leave them."""

import numpy as np
import pytest

from suite.images.folders import in_batches, list_images
from suite.images.pictures import read, read_batches

PIXELS = np.random.default_rng(0).integers(0, 256, (25, 3, 4, 6), np.uint8)


def write(folder, sizes=(2,) * 12 + (1,), labels=None, dtype=np.uint8):
    start = 0
    for number, size in enumerate(sizes):
        batch = PIXELS[start : start + size].astype(dtype)
        np.save(folder / f"batch_{number}.npy", batch)
        start += size
    if labels is not None:
        np.save(folder / "labels.npy", np.asarray(labels))
    return folder


def read(listed):
    batches = read_batches(in_batches(listed, 4))
    return {
        i.name: p.numpy() for batch, pixels in batches for i, p in zip(batch, pixels, strict=True)
    }


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, np.float64])
def test_images_come_in_the_order_of_the_batches_numbers(tmp_path, dtype):
    listed = list_images(write(tmp_path, labels=range(25), dtype=dtype))
    assert [image.name for image in listed] == [f"{number:06d}.png" for number in range(25)]
    assert [image.label for image in listed] == list(range(25))
    found = read(listed)
    assert all(np.array_equal(found[f"{n:06d}.png"], PIXELS[n]) for n in range(25))


def test_labels_are_optional(tmp_path):
    assert {image.label for image in list_images(write(tmp_path))} == {None}


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
    tmp_path, file, rows, expected, labelled
):
    write(tmp_path, (2, 1), list(expected.values()) if labelled else None)
    (tmp_path / file).write_text(rows)
    listed = list_images(tmp_path)
    assert [image.name for image in listed] == sorted(expected)
    assert {image.name: image.label for image in listed} == expected
    found = read(listed)
    assert all(np.array_equal(found[name], PIXELS[n]) for n, name in enumerate(expected))


def test_pictures_come_before_batches(tmp_path):
    write(tmp_path)
    read(list_images(tmp_path)[0]).save(tmp_path / "a.png")
    assert [image.name for image in list_images(tmp_path)] == ["a.png"]


def half(folder):
    np.save(folder / "batch_1.npy", PIXELS[:2] / 255)


def nan(folder):
    np.save(folder / "batch_1.npy", np.full((2, 3, 4, 6), np.nan, np.float32))


@pytest.mark.parametrize(
    "spoil", [half, nan, lambda f: np.save(f / "batch_1.npy", -PIXELS.astype(int))]
)
def test_pixels_that_are_no_levels_are_refused_by_batch_and_image(tmp_path, spoil):
    spoil(write(tmp_path, (2, 2)))
    listed = list_images(tmp_path)
    with pytest.raises(ValueError, match=r"batch_1\.npy, image 0: its pixels are not whole"):
        read(listed)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: (f / "batch_1.npy").unlink(), r"has batch_12\.npy, but no batch_1\.npy"),
        (lambda f: np.save(f / "batch_01.npy", PIXELS), "batch_1.npy have the same number"),
        (lambda f: np.save(f / "batch_1.npy", PIXELS.transpose(0, 2, 3, 1)), "25x4x6x3, not N x 3"),
        (lambda f: np.save(f / "batch_1.npy", PIXELS > 9), "batch_1.npy has bool"),
        (lambda f: np.save(f / "batch_1.npy", {}, allow_pickle=True), "not a readable array"),
        (lambda f: (f / "batch_1.npy").write_bytes(b""), "batch_1.npy is not a readable array"),
        (
            lambda f: (f / "batch_1.npy").write_bytes((f / "batch_1.npy").read_bytes()[:150]),
            "batch_1.npy is not a readable array",
        ),
        (lambda f: np.save(f / "labels.npy", [1, 2]), "has 2 labels, but the batches have 25"),
        (lambda f: np.save(f / "labels.npy", [0.5] * 25), "not a row of class indices"),
        (lambda f: np.save(f / "labels.npy", [-1] * 25), "not a row of class indices"),
        (lambda f: (f / "labels.csv").write_text("filename,label\na,1\n"), "1 rows, but .* 25"),
        (
            lambda f: (f / "labels.csv").write_text(
                "filename,label\n" + "".join(f"{n}.png,{24 - n}\n" for n in range(25))
            ),
            r"^0 is image 0 of .*, of the label 24, but 0 in labels.npy",
        ),
    ],
)
def test_batches_and_labels_that_do_not_fit_are_refused(tmp_path, spoil, reason):
    spoil(write(tmp_path, labels=range(25)))
    with pytest.raises(ValueError, match=reason):
        list_images(tmp_path)


def test_image_that_is_skipped_has_its_own_name(tmp_path):
    pixels = PIXELS[:3].astype(float)
    pixels[1] /= 255
    np.save(tmp_path / "batch_0.npy", pixels)
    skipped = []
    list(read_batches([list_images(tmp_path)], skipped=skipped))
    assert skipped == ["000001.png"]
