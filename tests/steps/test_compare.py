"""What evaluate.py says of two attacks on the same images, and of each image."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import pixels_of, rows_of
from small import ATTACK, EVALUATE, label

from suite.images.labels import write_labels

COMPARE = EVALUATE.replace("--input-dir {x}/nat", "--input-dir {x}/g1 {x}/g0.3")


@pytest.fixture
def attacked(succeed, folder):
    """Adversarial folders of gamma 1 and 0.3 of images of noise."""
    for gamma in (1, 0.3):
        command = f"{ATTACK}ten --num-steps 3 --gamma {{g}}".replace("adv", "g{g}")
        succeed(command, x=folder, g=gamma)
    return folder


@pytest.fixture
def table(succeed, attacked):
    """Compare the folders with these options; return the rows of the table."""
    return lambda options: json.loads(succeed(f"{COMPARE}ten --json {options}", x=attacked)[0])


def test_success_computed_from_the_answers_is_the_tables(table, attacked):
    ours = table("--nat-dir {x}/nat --answers {x}/a.csv")
    rows = rows_of(attacked / "a.csv")
    target = f"{attacked}/nets.py:ten"
    for row in ours:
        mine = [r for r in rows if r["folder"] == row["folders"][0]]
        fooled = sum(r[f"{target} class"] != r["label"] for r in mine)
        assert 100 * fooled / len(mine) == row["targets"][target]["success"]["rate"]
    natural = [r for r in rows if r["folder"] == f"{attacked}/nat"]
    assert [r["filename"] for r in natural] == [f"{n}.png" for n in range(6)]
    right = sum(r[f"{target} class"] == r["label"] for r in natural)
    assert 100 * right / 6 == pytest.approx(ours[0]["targets"][target]["natural_accuracy"]["rate"])
    assert all(0 < float(r[f"{target} probability"]) < 1 for r in rows)


def test_baseline_auto_is_the_folder_of_gamma_1(table, attacked):
    plain, sgm = table("--baseline auto --answers {x}/a.csv")
    assert "baseline" not in plain
    assert sgm["baseline"] == f"{attacked}/g1"
    ((target, rates),) = sgm["targets"].items()
    rows = rows_of(attacked / "a.csv")
    fooled = {(r["folder"], r["filename"]): r[f"{target} class"] != r["label"] for r in rows}
    names = [f"{n}.png" for n in range(6)]
    won = sum(fooled[sgm["folders"][0], n] > fooled[sgm["baseline"], n] for n in names)
    lost = sum(fooled[sgm["folders"][0], n] < fooled[sgm["baseline"], n] for n in names)
    found = rates["difference"]
    assert (found["won"], found["lost"], found["images"]) == (won, lost, 6)
    assert found["points"] == pytest.approx(100 * (won - lost) / 6)


def test_quality_is_of_the_saved_pixels(table, attacked):
    natural = pixels_of(attacked / "nat")
    for row in table("--nat-dir {x}/nat --quality"):
        saved = pixels_of(Path(row["folders"][0]))
        norms = [np.linalg.norm((saved[name] - natural[name]).ravel() / 255) for name in natural]
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


def test_one_image_and_two_seeds_have_a_table(succeed, folder):
    for n in range(1, 6):
        (folder / "nat" / f"{n}.png").unlink()
    label(folder / "nat", [0])
    names = [f"{gamma}_{seed}" for gamma in (1, 0.3) for seed in (1, 2)]
    for name in names:
        gamma, seed = name.split("_")
        options = f"--rand-init --gamma {gamma} --seed {seed}"
        succeed(f"{ATTACK}ten {options}".replace("adv", name), x=folder)
    listed = " ".join(f"{{x}}/{name}" for name in names)
    command = f"evaluate --input-dir {listed} --arch {{x}}/nets.py:ten --plot {{x}}/p.png"
    out, _ = succeed(f"{command} --baseline auto", x=folder)
    assert "[-100.0, +100.0]  1" in out
    assert "nothing can be told apart" in out


def test_names_in_the_answers_are_no_formulas(succeed, folder):
    for file in (folder / "nat").glob("*.png"):
        file.rename(file.with_stem(f"={file.stem}"))
    write_labels(folder / "nat", [{"filename": f"={n}.png", "label": n} for n in range(6)])
    succeed(f"{EVALUATE}ten --answers {{x}}/a.csv", x=folder)
    assert [row["filename"] for row in rows_of(folder / "a.csv")][0] == "'=0.png"
