"""Folders that other programs made, such as defences that return images."""

import csv
import json
import re
import shutil

import PIL.Image
import pytest
from small import ATTACK

EVALUATE = "evaluate --nat-dir {x}/nat --arch {x}/nets.py:ten --json --input-dir"


@pytest.fixture
def attacked(run, folder):
    """Adversarial images in adv; a defence's copies of them, without labels, in purified."""
    assert run(f"{ATTACK}ten", x=folder)[0] == 0
    (folder / "purified").mkdir()
    for file in (folder / "adv").glob("*.png"):
        shutil.copy(file, folder / "purified")
    return folder


def rows(run, root, *folders, options=""):
    status, out, err = run(f"{EVALUATE} {' '.join(folders)} {options}", x=root)
    assert status == 0, err
    return json.loads(out)


def test_defended_folder_without_labels_is_a_row_of_its_own_name(run, attacked):
    options = "--baseline {x}/adv --gallery {x}/gallery.png"
    adv, purified = rows(run, attacked, "{x}/adv", "{x}/purified", options=options)
    (compared,) = (target.pop("difference") for target in purified["targets"].values())
    assert (compared["images"], compared["won"], compared["lost"]) == (6, 0, 0)
    for key in ("images", "targets", "largest_perturbation"):
        assert adv[key] == purified[key]
    assert (attacked / "gallery.png").is_file()
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


def resized(folder, numbers):
    for number in numbers:
        file = folder / f"{number}.png"
        PIL.Image.open(file).resize((40, 40)).save(file)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: (f / "2.png").unlink(), "has no labels, .*: it has no 2.png"),
        (lambda f: (f / "2.png").rename(f / "x.png"), "has no labels, .*: it has no 2.png"),
        (lambda f: shutil.copy(f / "2.png", f / "x.png"), "has no labels, .*: it alone has x.png"),
        (lambda f: resized(f, range(6)), "0.png is 40 x 40 pixels, but .*nat/0.png is 32 x 32"),
        (lambda f: resized(f, [3]), "3.png is 40 x 40 pixels, but .*0.png is 32 x 32"),
        (
            lambda f: (f.parent / "nat" / "labels.csv").unlink(),
            "has no labels: it needs a labels.csv .evaluate.py also takes those",
        ),
    ],
)
def test_folder_that_does_not_fit_is_refused_by_its_first_image(run, attacked, spoil, reason):
    spoil(attacked / "purified")
    status, out, err = run(f"{EVALUATE} {{x}}/purified", x=attacked)
    assert (status, out) == (1, "")
    assert re.search(f"purified(/| ){reason}", err)
