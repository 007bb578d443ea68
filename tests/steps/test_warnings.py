"""Warnings where a measurement would mislead."""

import PIL.Image
import torch
from small import ATTACK

from suite.attack.loop import GradientAttack
from suite.networks.answer_checks import warn_of_probabilities


def test_probabilities_are_warned_of(caplog):
    logits = torch.randn(3, 10)
    warn_of_probabilities("net", logits)
    assert not caplog.text
    warn_of_probabilities("net", logits.softmax(1))
    assert "net seems to return probabilities" in caplog.text


def test_gradients_that_are_not_finite_are_refused_by_name(run, folder, monkeypatch):
    original = GradientAttack.run

    def broken(*args):
        pixels = original(*args)
        pixels[1, 0, 3, 3] = torch.nan
        return pixels

    monkeypatch.setattr(GradientAttack, "run", broken)
    status, _, err = run(f"{ATTACK}ten", x=folder)
    assert (status, "the gradient is not finite at 1 images: 1.png" in err) == (1, True)
    assert not list((folder / "adv").glob("*.png"))


EVALUATE = "evaluate --input-dir {x}/adv --arch {x}/nets.py:"


def test_evaluation_on_the_source_and_jpegs_are_warned_of(succeed, folder):
    succeed(f"{ATTACK}ten", x=folder)
    for file in (folder / "adv").glob("*.png"):
        PIL.Image.open(file).resize((50, 40)).save(file, "JPEG")
    _, err = succeed(f"{EVALUATE}ten", x=folder)
    assert f"was crafted on {folder}/nets.py:ten: white-box, no transfer" in err
    assert "is a JPEG: it washes perturbations out" in err
    assert "has the size (50, 40), but was written as [32, 32]" in err


def test_evaluation_on_any_source_of_an_ensemble_is_warned_of(succeed, folder):
    succeed(f"{ATTACK}ten {{x}}/nets.py:of_batch --ensemble gradients", x=folder)
    _, err = succeed(f"{EVALUATE}of_batch", x=folder)
    assert f"was crafted on {folder}/nets.py:of_batch: white-box, no transfer" in err
