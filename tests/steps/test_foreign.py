"""Folders that other programs made: defences that return images, and attacks that leave arrays."""

import csv
import json
import re
import shutil

import numpy as np
import PIL.Image
import pytest
from conftest import pixels_of
from small import ATTACK, folder

__all__ = ["folder"]

EVALUATE = "evaluate --nat-dir {x}/nat --arch {x}/nets.py:ten --json --input-dir"


@pytest.fixture
def attacked(run, folder):
    """Adversarial images in adv; a defence's copies of them, without labels, in purified."""
    assert run(f"{ATTACK}ten", x=folder)[0] == 0
    (folder / "purified").mkdir()
    for file in (folder / "adv").glob("*.png"):
        shutil.copy(file, folder / "purified")
    return folder


def arrays(folder, *, labelled, sizes=(4, 2), order=slice(None)):
    """The adversarial images once more, as batches in `arrays`."""
    (folder / "arrays").mkdir()
    pixels = np.stack(list(pixels_of(folder / "adv").values())).astype(np.uint8)[order]
    for number, batch in enumerate(np.split(pixels.transpose(0, 3, 1, 2), np.cumsum(sizes)[:-1])):
        np.save(folder / "arrays" / f"batch_{number}.npy", batch)
    if labelled:
        np.save(folder / "arrays" / "labels.npy", np.arange(6)[order])


def rows(run, root, *folders, options=""):
    status, out, err = run(f"{EVALUATE} {' '.join(folders)} {options}", x=root)
    assert status == 0, err
    return json.loads(out)


def same_numbers(one, other):
    keys = ("images", "targets", "largest_perturbation")
    return all(one[key] == other[key] for key in keys)


def test_defended_folder_without_labels_is_a_row_of_its_own_name(run, attacked):
    adv, purified = rows(run, attacked, "{x}/adv", "{x}/purified")
    assert same_numbers(adv, purified)
    assert purified["folders"] == [f"{attacked}/purified"]
    assert purified["attack"] is purified["gamma"] is None


def test_jpegs_are_paired_with_the_natural_images_of_their_names(run, attacked):
    for file in (attacked / "purified").glob("*.png"):
        PIL.Image.open(file).save(file.with_suffix(".jpg"), quality=100, subsampling=0)
        file.unlink()
    (purified,) = rows(run, attacked, "{x}/purified", options="--answers {x}/answers.csv")
    assert purified["images"] == 6
    assert 0 < purified["largest_perturbation"] < 60
    answers = list(csv.DictReader((attacked / "answers.csv").open(newline="")))
    assert [row["filename"] for row in answers] == 2 * [f"{n}.png" for n in range(6)]


@pytest.mark.parametrize("labelled", [True, False])
def test_batches_of_arrays_give_the_numbers_of_the_same_pngs(run, attacked, labelled):
    arrays(attacked, labelled=labelled)
    options = "--baseline {x}/adv --gallery {x}/gallery.png"
    adv, batches = rows(run, attacked, "{x}/adv", "{x}/arrays", options=options)
    (compared,) = (target.pop("difference") for target in batches["targets"].values())
    assert compared["images"] == 6
    assert compared["won"] == compared["lost"] == 0
    assert same_numbers(adv, batches)
    assert (attacked / "gallery.png").is_file()


def test_batches_with_labels_need_no_natural_images(run, attacked):
    arrays(attacked, labelled=True)
    command = "evaluate --arch {x}/nets.py:ten --json --input-dir {x}/adv {x}/arrays"
    adv, batches = json.loads(run(command, x=attacked)[1])
    assert adv["targets"] == batches["targets"]


def test_batches_can_be_attacked(run, attacked):
    arrays(attacked, labelled=True)
    command = ATTACK.replace("{x}/nat", "{x}/arrays").replace("{x}/adv", "{x}/twice")
    assert run(f"{command}ten", x=attacked)[0] == 0
    before, after = pixels_of(attacked / "adv"), pixels_of(attacked / "twice")
    assert list(after) == [f"{number:06d}.png" for number in range(6)]
    changes = [abs(a - b).max() for a, b in zip(before.values(), after.values(), strict=True)]
    assert 0 < max(changes) <= 16


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (
            lambda f: (f / "purified" / "2.png").unlink(),
            "purified has no labels, .*: it has no 2.png",
        ),
        (
            lambda f: (f / "purified" / "2.png").rename(f / "purified" / "x.png"),
            "purified has no labels, .*: it has no 2.png",
        ),
        (
            lambda f: shutil.copy(f / "purified" / "2.png", f / "purified" / "x.png"),
            "purified has no labels, .*: it alone has x.png",
        ),
        (
            lambda f: resized(f, range(6)),
            r"purified/0.png is 40 x 40 pixels, but .*nat/0.png is 32 x 32",
        ),
        (lambda f: resized(f, [3]), r"purified/3.png is 40 x 40 pixels, but .*0.png is 32 x 32"),
        (
            lambda f: (f / "nat" / "labels.csv").unlink(),
            "purified has no labels: it needs a labels.csv .evaluate.py also takes those",
        ),
    ],
)
def test_folder_that_does_not_fit_is_refused_by_its_first_image(run, attacked, spoil, reason):
    spoil(attacked)
    status, out, err = run(f"{EVALUATE} {{x}}/purified", x=attacked)
    assert (status, out) == (1, "")
    assert re.search(reason, err)


def resized(folder, numbers):
    for number in numbers:
        file = folder / "purified" / f"{number}.png"
        PIL.Image.open(file).resize((40, 40)).save(file)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            {"labelled": True, "order": slice(None, None, -1)},
            "0.png has the label 0 in {x}/nat, but 5 in {x}/arrays: does one of them count from 1, "
            "or stand in another order?",
        ),
        (
            {"labelled": True, "order": slice(5), "sizes": (3, 2)},
            "{x}/arrays has 5 images in its batches, but there are 6 natural ones: 5.png has no",
        ),
    ],
)
def test_batches_that_do_not_fit_are_refused_by_their_first_image(run, attacked, given, reason):
    arrays(attacked, **given)
    status, out, err = run(f"{EVALUATE} {{x}}/arrays", x=attacked)
    assert (status, out) == (1, "")
    assert reason.format(x=attacked) in err
