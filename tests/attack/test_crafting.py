"""The attack on folders: natural answers, and what happens where memory is short."""

import json

import pytest
import torch
from bases import generators
from small import ATTACK, answers_of, label

from suite.attack import crafting
from suite.attack.loop import GradientAttack


@pytest.mark.parametrize(
    "options",
    ["--num-steps 1 --step-size 16 --di-prob 1 --di-resize 8", "--rand-init --epsilon 200"],
)
def test_labels_are_held_against_the_answers_to_the_natural_images(run, folder, options):
    label(folder / "nat", answers_of(folder, "ten"))
    status, _, err = run(f"{ATTACK}ten {options}", x=folder)
    assert (status, "natural images" in err) == (0, False)


def test_absent_labels_and_logits_that_are_not_finite_are_two_things(run, folder):
    (folder / "nat" / "labels.csv").unlink()
    assert run(f"{ATTACK}ten", x=folder)[0] == 0
    status, _, err = run(f"{ATTACK}nan --output-dir {{x}}/other", x=folder)
    assert (status, "answers with logits that are not finite" in err) == (1, True)


def test_run_out_of_memory_goes_on_with_smaller_batches(run, folder, monkeypatch):
    run_batch = GradientAttack.run

    def limited(attack, batch):
        if len(batch.natural) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return run_batch(attack, batch)

    attack = f"{ATTACK}ten --rand-init --di-prob 0.5 --json"
    assert run(f"{attack} --output-dir {{x}}/3 --batch-size 3", x=folder)[0] == 0
    monkeypatch.setattr(GradientAttack, "run", limited)
    status, out, err = run(f"{attack} --output-dir {{x}}/6", x=folder)
    assert (status, json.loads(out)["images"]) == (0, 6)
    assert "memory is short: 3 images at a time now (DefaultCPUAllocator" in err
    for file in (folder / "3").glob("*.png"):
        assert file.read_bytes() == (folder / "6" / file.name).read_bytes()


def test_random_targets_are_never_the_label_and_reach_every_class():
    labels = torch.full((9000,), 7)
    targets = crafting.random_targets(labels, generators(map(str, range(9000))))
    assert set(targets.tolist()) == set(range(1000)) - {7}
