"""Folders that other programs made, such as defences that return images."""

import json
import re
import shutil

import PIL.Image
import pytest
from conftest import rows_of
from small import ATTACK

EVALUATE = "evaluate --nat-dir {x}/nat --arch {x}/nets.py:ten --json --input-dir"


@pytest.fixture
def attacked(succeed, folder):
    """Adversarial images in adv; a defence's copies of them, without labels, in purified."""
    succeed(f"{ATTACK}ten", x=folder)
    (folder / "purified").mkdir()
    for file in (folder / "adv").glob("*.png"):
        shutil.copy(file, folder / "purified")
    return folder


def test_defended_folder_without_labels_is_a_row_of_its_own_name(succeed, attacked):
    options = "{x}/adv {x}/purified --baseline {x}/adv --gallery {x}/gallery.png"
    adv, purified = json.loads(succeed(f"{EVALUATE} {options}", x=attacked)[0])
    (compared,) = (target.pop("difference") for target in purified["targets"].values())
    assert (compared["images"], compared["won"], compared["lost"]) == (6, 0, 0)
    for key in ("images", "targets", "largest_perturbation"):
        assert adv[key] == purified[key]
    assert (attacked / "gallery.png").is_file()
    assert purified["folders"] == [f"{attacked}/purified"]
    assert purified["attack"] is purified["gamma"] is None


def test_jpegs_are_paired_with_the_natural_images_of_their_names(succeed, attacked):
    for file in (attacked / "purified").glob("*.png"):
        PIL.Image.open(file).save(file.with_suffix(".jpg"), quality=100, subsampling=0)
        file.unlink()
    command = f"{EVALUATE} {{x}}/purified --answers {{x}}/answers.csv"
    (purified,) = json.loads(succeed(command, x=attacked)[0])
    assert purified["images"] == 6
    assert 0 < purified["largest_perturbation"] < 60
    names = [row["filename"] for row in rows_of(attacked / "answers.csv")]
    assert names == 2 * [f"{n}.png" for n in range(6)]


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
