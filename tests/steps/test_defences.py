"""Defended networks as targets and as sources, from the command line."""

import csv
import json
import shutil

import numpy as np
import PIL.Image
import pytest
from conftest import pixels_of
from small import ATTACK, EVALUATE, SELECT, folder

from suite.defences.randomised import RandomPadding

__all__ = ["folder"]


@pytest.fixture(autouse=True)
def little_padding(monkeypatch):
    monkeypatch.setattr(RandomPadding, "smallest", 34)
    monkeypatch.setattr(RandomPadding, "padded", 40)
    monkeypatch.setattr(RandomPadding.__init__, "__defaults__", (3,))


def answers(file):
    with file.open(newline="") as stream:
        rows = list(csv.reader(stream))
    return {row[1]: row[4:] for row in rows[1:]}


def test_column_of_a_defence_is_that_of_images_it_has_changed(run, folder):
    (folder / "two").mkdir()
    for file in (folder / "nat").glob("*.png"):
        black_or_white = np.asarray(PIL.Image.open(file)) // 128 * 255
        PIL.Image.fromarray(black_or_white.astype(np.uint8)).save(folder / "two" / file.name)
    shutil.copy(folder / "nat" / "labels.csv", folder / "two")
    command = "evaluate --input-dir {x}/%s --answers {x}/%s.csv --arch %s{x}/nets.py:ten"
    for images, name, defence in (
        ("nat", "defended", "bits:1+"),
        ("two", "changed", ""),
        ("nat", "bare", ""),
    ):
        assert run(command % (images, name, defence), x=folder)[0] == 0
    defended, changed, bare = (
        answers(folder / f"{name}.csv") for name in ("defended", "changed", "bare")
    )
    assert defended == changed != bare


def test_first_defence_is_the_first_that_is_applied(run, folder):
    said = {}
    for stack in ("jpeg:5+bits:1", "bits:1+jpeg:5"):
        command = "evaluate --input-dir {x}/nat --answers {x}/a.csv --arch %s+{x}/nets.py:ten"
        assert run(command % stack, x=folder)[0] == 0
        said[stack] = answers(folder / "a.csv")
    assert said["jpeg:5+bits:1"] != said["bits:1+jpeg:5"]


@pytest.mark.parametrize("stack", ["rp", "smooth:0.3:12"])
def test_random_defence_depends_on_seed_and_names_alone(run, folder, stack):
    said = []
    (folder / "few").mkdir()
    for n in (4, 2):
        shutil.copy(folder / "nat" / f"{n}.png", folder / "few")
    (folder / "few" / "labels.csv").write_text("filename,label\n2.png,2\n4.png,4\n")
    for images, options in (
        ("nat", "--batch-size 4"),
        ("nat", "--batch-size 1 --seed 0"),
        ("few", ""),
        ("nat", "--seed 1"),
    ):
        command = "evaluate --input-dir {x}/%s --answers {x}/a.csv %s --arch %s+{x}/nets.py:ten"
        assert run(command % (images, options, stack), x=folder)[0] == 0
        said.append(answers(folder / "a.csv"))
    first, batches, fewer, other = (
        {name: (row[0], round(float(row[1]), 5)) for name, row in each.items()} for each in said
    )
    assert first == batches != other
    assert fewer == {name: first[name] for name in ("2.png", "4.png")}


def test_abstention_is_a_success_but_no_target_class_and_is_told(run, folder):
    command = EVALUATE + "ten --answers {x}/a.csv --json"
    command = command.replace("{x}/nets.py", "smooth:9:11+{x}/nets.py")
    status, out, log = run(command, x=folder)
    assert status == 0
    none = [row for row in answers(folder / "a.csv").values() if row[0] == "10"]
    assert none
    assert max(float(probability) for _, probability in none) < 1e-9
    assert f"abstains on {len(none)} of 6 images of" in log
    (row,) = json.loads(out)
    assert next(iter(row["targets"].values()))["success"]["rate"] >= 100 * len(none) / 6


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--arch bits:3+{x}/nets.py:ten", "--through-defence attacks the network through it"),
        ("--arch {x}/nets.py:ten --through-defence", "needs one in front of a network"),
        ("--arch bits:3+{x}/nets.py:ten --through-defence --eot 2", "--eot averages over random"),
        ("--arch smooth+{x}/nets.py:ten {x}/nets.py:ten --through-defence", "votes are no logits"),
        ("--arch jpg+{x}/nets.py:ten --through-defence", "no defence is called 'jpg'"),
        ("--arch nrp+{x}/nets.py:ten --through-defence", "--checkpoint nrp="),
    ],
)
def test_wrong_attack_on_a_defence_is_refused(run, folder, options, said):
    command = "attack_iter --input-dir {x}/nat --output-dir {x}/adv " + options
    status, _, err = run(command, x=folder)
    assert status == 2
    assert said in err
    assert not (folder / "adv").exists()


@pytest.mark.parametrize("command", [EVALUATE, SELECT])
def test_unknown_defence_of_a_target_is_a_wrong_use(run, folder, command):
    status, _, err = run(command.replace("{x}/nets.py", "jpg+{x}/nets.py") + "ten", x=folder)
    assert status == 2
    assert "no defence is called 'jpg'; there are jpeg, bits" in err


def test_attack_through_a_defence_is_made_resumed_and_labelled(run, folder):
    command = ATTACK.replace("{x}/nets.py:", "rp+{x}/nets.py:ten --through-defence --eot 2")
    assert run(command + " --gamma 0.5 --batch-size 4", x=folder)[0] == 0
    made, before = json.loads((folder / "adv" / "run.json").read_text()), pixels_of(folder / "adv")
    assert made["attack"] == "PGD+EOT"
    assert made["source"] == f"rp+{folder}/nets.py:ten"
    (folder / "adv" / "5.png").unlink()
    assert run(command + " --gamma 0.5", x=folder)[0] == 0
    after = pixels_of(folder / "adv")
    assert all((before[name] == after[name]).all() for name in before)
    resumed = json.loads((folder / "adv" / "run.json").read_text())
    assert resumed["white_box_success"] == made["white_box_success"]


def test_attack_through_smoothing_needs_labels(run, folder):
    (folder / "nat" / "labels.csv").unlink()
    command = ATTACK.replace("{x}/nets.py:", "smooth:9:11+{x}/nets.py:ten --through-defence")
    status, _, err = run(command, x=folder)
    assert status == 1
    assert "nat has no labels: it needs a labels.csv" in err


def test_attack_of_the_user_s_may_pass_other_numbers_of_images(run, folder):
    (folder / "mine.py").write_text("""
import torch

def copies(model, images, labels, epsilon):
    model(images[:1])
    images.requires_grad_()
    model(torch.cat([images, images])).logsumexp(1).sum().backward()
    return (images + epsilon * images.grad.sign()).clamp(0, 1)
""")
    command = ATTACK.replace(" --num-steps 2", "").replace("{x}/nets.py:", "rp+{x}/nets.py:ten")
    made = []
    for to in ("/one", "/two"):
        options = " --through-defence --attack {x}/mine.py:copies"
        status, _, err = run(command.replace("/adv", to) + options, x=folder)
        assert status == 0, err
        made.append(pixels_of(folder / to[1:]))
    assert all((pixels == made[1][name]).all() for name, pixels in made[0].items())


def test_branches_are_listed_of_the_network_behind_a_defence(run, folder):
    status, out, _ = run("attack_iter --list-branches --arch bits:3+{x}/nets.py:ten", x=folder)
    assert status == 0
    assert "1 residual branches" in out


def test_network_behind_a_defence_is_the_source_nevertheless(run, folder):
    (folder / "net.py").write_text((folder / "nets.py").read_text())
    attack = ATTACK.replace("nets.py:", "nets.py:ten --num-steps 1")
    assert run(attack, x=folder)[0] == 0
    command = "evaluate --input-dir {x}/adv --arch bits:3+{x}/nets.py:ten {x}/net.py:ten"
    _, _, log = run(command, x=folder)
    assert f"was crafted on bits:3+{folder}/nets.py:ten: white-box" in log
