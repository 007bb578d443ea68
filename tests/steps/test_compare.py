"""What evaluate.py says of two attacks on the same images, and of each image."""

import csv
import json

import numpy as np
import PIL.Image
import pytest
from small import ATTACK, EVALUATE, label

from suite.images.folders import list_images
from suite.images.labels import write_labels

COMPARE = EVALUATE.replace("--input-dir {x}/nat", "--input-dir {x}/g1 {x}/g0.3")


@pytest.fixture
def attacked(run, folder):
    """Adversarial folders of gamma 1 and 0.3 of images of noise."""
    for gamma in (1, 0.3):
        command = f"{ATTACK}ten --num-steps 3 --gamma {{g}}".replace("adv", "g{g}")
        status, _, err = run(command, x=folder, g=gamma)
        assert status == 0, err
    return folder


def evaluate(run, root, options=""):
    status, out, err = run(f"{COMPARE}ten {options}", x=root)
    assert status == 0, err
    return out


def test_success_computed_from_the_answers_is_the_tables(run, attacked):
    out = evaluate(run, attacked, "--json --nat-dir {x}/nat --answers {x}/a.csv")
    table = json.loads(out)
    rows = list(csv.DictReader((attacked / "a.csv").open(newline="")))
    target = f"{attacked}/nets.py:ten"
    for row in table:
        mine = [r for r in rows if r["folder"] == row["folders"][0]]
        fooled = sum(r[f"{target} class"] != r["label"] for r in mine)
        assert 100 * fooled / len(mine) == row["targets"][target]["success"]["rate"]
    natural = [r for r in rows if r["folder"] == f"{attacked}/nat"]
    assert [r["filename"] for r in natural] == [f"{n}.png" for n in range(6)]
    right = sum(r[f"{target} class"] == r["label"] for r in natural)
    assert 100 * right / 6 == pytest.approx(table[0]["targets"][target]["natural_accuracy"]["rate"])
    assert all(0 < float(r[f"{target} probability"]) < 1 for r in rows)


def test_baseline_auto_is_the_folder_of_gamma_1(run, attacked):
    out = evaluate(run, attacked, "--baseline auto --json --answers {x}/a.csv")
    plain, sgm = json.loads(out)
    assert "baseline" not in plain
    assert sgm["baseline"] == f"{attacked}/g1"
    ((target, rates),) = sgm["targets"].items()
    rows = list(csv.DictReader((attacked / "a.csv").open(newline="")))
    fooled = {(r["folder"], r["filename"]): r[f"{target} class"] != r["label"] for r in rows}
    names = [f"{n}.png" for n in range(6)]
    won = sum(fooled[sgm["folders"][0], n] > fooled[sgm["baseline"], n] for n in names)
    lost = sum(fooled[sgm["folders"][0], n] < fooled[sgm["baseline"], n] for n in names)
    found = rates["difference"]
    assert (found["won"], found["lost"], found["images"]) == (won, lost, 6)
    assert found["points"] == pytest.approx(100 * (won - lost) / 6)


def test_quality_is_of_the_saved_pixels(run, attacked):
    out = evaluate(run, attacked, "--nat-dir {x}/nat --quality --json")
    for row in json.loads(out):
        norms = []
        for image in list_images(attacked / "nat"):
            ours, theirs = (
                np.asarray(PIL.Image.open(f"{place}/{image.name}")) / 255
                for place in (row["folders"][0], attacked / "nat")
            )
            norms.append(np.sqrt(((ours - theirs) ** 2).sum()))
        assert row["quality"]["l2"] == pytest.approx(np.mean(norms), rel=1e-5)
        assert row["quality"]["linf"] <= row["largest_perturbation"]
        assert 0 < row["quality"]["ssim"] < 1


def test_baseline_of_other_images_is_refused_before_the_work(run, attacked):
    label(attacked / "g0.3", [0, 1, 2, 3, 5, 4])
    status, out, err = run(f"{COMPARE}ten --baseline auto", x=attacked)
    assert (status, out) == (1, "")
    assert f"4.png has the label 5 in {attacked}/g0.3, but 4 in {attacked}/g1" in err
    for image in (attacked / "g0.3").glob("*.png"):
        image.rename(image.with_stem(f"other_{image.stem}"))
    write_labels(attacked / "g0.3", [{"filename": f"other_{n}.png", "label": n} for n in range(6)])
    status, out, err = run(f"{COMPARE}ten --baseline auto", x=attacked)
    assert (status, out) == (1, "")
    assert "have no image in common" in err
