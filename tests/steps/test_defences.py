"""Defended networks as targets and as sources, from the command line."""

import json
import shutil

import numpy as np
import PIL.Image
import pytest
from conftest import pixels_of, rows_of, run_json
from small import ATTACK, EVALUATE, SELECT

from suite.defences.randomised import RandomPadding


@pytest.fixture(autouse=True)
def little_padding(monkeypatch):
    monkeypatch.setattr(RandomPadding, "smallest", 34)
    monkeypatch.setattr(RandomPadding, "padded", 40)
    monkeypatch.setattr(RandomPadding.__init__, "__defaults__", (3,))


@pytest.fixture
def answers(succeed, folder):
    """Evaluate the network behind defences, and return its answers by image name."""

    def answers(stack, images="nat", options=""):
        command = f"evaluate --input-dir {{x}}/{images} --answers {{x}}/a.csv {options} --arch "
        succeed(command + stack + "{x}/nets.py:ten", x=folder)
        return answers_in(folder / "a.csv")

    return answers


def answers_in(file):
    return {row["filename"]: [*row.values()][4:] for row in rows_of(file)}


def test_column_of_a_defence_is_that_of_images_it_has_changed(answers, folder):
    (folder / "two").mkdir()
    for file in (folder / "nat").glob("*.png"):
        black_or_white = np.asarray(PIL.Image.open(file)) // 128 * 255
        PIL.Image.fromarray(black_or_white.astype(np.uint8)).save(folder / "two" / file.name)
    shutil.copy(folder / "nat" / "labels.csv", folder / "two")
    assert answers("bits:1+") == answers("", "two") != answers("")


def test_first_defence_is_the_first_that_is_applied(answers):
    assert answers("jpeg:5+bits:1+") != answers("bits:1+jpeg:5+")


@pytest.mark.parametrize("stack", ["rp+", "smooth:0.3:12+"])
def test_random_defence_depends_on_seed_and_names_alone(answers, folder, stack):
    (folder / "few").mkdir()
    for n in (4, 2):
        shutil.copy(folder / "nat" / f"{n}.png", folder / "few")
    (folder / "few" / "labels.csv").write_text("filename,label\n2.png,2\n4.png,4\n")
    said = [
        answers(stack, "nat", "--batch-size 4"),
        answers(stack, "nat", "--batch-size 1 --seed 0"),
        answers(stack, "few"),
        answers(stack, "nat", "--seed 1"),
    ]
    first, batches, fewer, other = (
        {name: (row[0], round(float(row[1]), 5)) for name, row in each.items()} for each in said
    )
    assert first == batches != other
    assert fewer == {name: first[name] for name in ("2.png", "4.png")}


def test_abstention_is_a_success_but_no_target_class_and_is_told(succeed, folder):
    command = EVALUATE.replace("{x}/nets.py:", "smooth:9:11+{x}/nets.py:ten")
    out, log = succeed(command + " --answers {x}/a.csv --json", x=folder)
    none = [row for row in answers_in(folder / "a.csv").values() if row[0] == "10"]
    assert none
    assert max(float(probability) for _, probability in none) < 1e-9
    assert f"abstains on {len(none)} of 6 images of" in log
    (row,) = json.loads(out)
    assert next(iter(row["targets"].values()))["success"]["rate"] >= 100 * len(none) / 6


@pytest.mark.parametrize(
    ("command", "arch", "said"),
    [
        (ATTACK, "bits:3+{x}/nets.py:ten --eot 2", "--eot averages over random"),
        (ATTACK, "smooth+{x}/nets.py:ten {x}/nets.py:ten", "can't average as logits"),
        (ATTACK, "nrp+{x}/nets.py:ten", "--checkpoint nrp="),
        (ATTACK, "jpg+{x}/nets.py:ten", "no defence is called 'jpg'; there are jpeg, bits"),
        (EVALUATE, "jpg+{x}/nets.py:ten", "no defence is called 'jpg'; there are jpeg, bits"),
        (SELECT, "jpg+{x}/nets.py:ten", "no defence is called 'jpg'; there are jpeg, bits"),
    ],
)
def test_wrong_defence_is_refused_before_anything_is_written(run, folder, command, arch, said):
    status, _, err = run(command.removesuffix("{x}/nets.py:") + arch, x=folder)
    assert status == 2
    assert said in err
    assert not any((folder / made).exists() for made in ("adv", "kept"))


def test_attack_through_a_defence_is_made_resumed_and_labelled(succeed, folder):
    command = ATTACK.replace("{x}/nets.py:", "rp+{x}/nets.py:ten --eot 2")
    succeed(command + " --gamma 0.5 --batch-size 4", x=folder)
    made, before = run_json(folder / "adv"), pixels_of(folder / "adv")
    assert made["attack"] == "PGD+EOT"
    assert made["source"] == f"rp+{folder}/nets.py:ten"
    (folder / "adv" / "5.png").unlink()
    succeed(command + " --gamma 0.5", x=folder)
    after = pixels_of(folder / "adv")
    assert all((before[name] == after[name]).all() for name in before)
    assert run_json(folder / "adv")["white_box_success"] == made["white_box_success"]


def test_attack_through_smoothing_needs_labels(run, folder):
    (folder / "nat" / "labels.csv").unlink()
    command = ATTACK.replace("{x}/nets.py:", "smooth:9:11+{x}/nets.py:ten")
    status, _, err = run(command, x=folder)
    assert status == 1
    assert "nat has no labels: it needs a labels.csv" in err


def test_attack_of_the_user_s_may_pass_other_numbers_of_images(succeed, folder):
    (folder / "mine.py").write_text("""
import torch

def copies(model, images, labels, epsilon):
    model(images[:1])
    images.requires_grad_()
    model(torch.cat([images, images])).logsumexp(1).sum().backward()
    return (images + epsilon * images.grad.sign()).clamp(0, 1)
""")
    command = ATTACK.replace(" --num-steps 2", "").replace("{x}/nets.py:", "rp+{x}/nets.py:ten")
    for to in ("one", "two"):
        succeed(command.replace("adv", to) + " --attack {x}/mine.py:copies", x=folder)
    one, two = (pixels_of(folder / to) for to in ("one", "two"))
    assert all((pixels == two[name]).all() for name, pixels in one.items())


def test_branches_are_listed_of_the_network_behind_a_defence(succeed, folder):
    assert "1 residual branches" in succeed("list_branches bits:3+{x}/nets.py:ten", x=folder)[0]


def test_network_behind_a_defence_is_the_source_nevertheless(succeed, folder):
    (folder / "net.py").write_text((folder / "nets.py").read_text())
    succeed(f"{ATTACK}ten --num-steps 1", x=folder)
    command = "evaluate --input-dir {x}/adv --arch bits:3+{x}/nets.py:ten {x}/net.py:ten"
    _, log = succeed(command, x=folder)
    assert f"was crafted on bits:3+{folder}/nets.py:ten: white-box" in log
