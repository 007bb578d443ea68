"""Warnings where a measurement would mislead."""

import PIL.Image
import pytest
import torch

from suite.running import checks


@pytest.mark.parametrize(
    ("labels", "warning"),
    [
        ([1, 2, 3, 4], None),
        ([2, 3, 4, 5], "do the labels count from 1"),
        ([9, 9, 9, 9], "wrong labels, or preprocessing"),
    ],
)
def test_implausible_accuracy_is_warned_of(caplog, labels, warning):
    records = [{"answer": n, "label": label} for n, label in enumerate(labels, 1)]
    checks.warn_of_accuracy("net", records)
    assert (warning or "") in caplog.text
    assert bool(caplog.text) == bool(warning)


def test_probabilities_are_warned_of(caplog):
    logits = torch.randn(3, 10)
    checks.warn_of_probabilities("net", logits)
    assert not caplog.text
    checks.warn_of_probabilities("net", logits.softmax(1))
    assert "net seems to return probabilities" in caplog.text


def test_gradients_that_are_not_finite_are_refused_by_name(run, natural, tmp_path, monkeypatch):
    from suite.attack import attacks

    perturb = attacks.perturb

    def broken(*args):
        pixels = perturb(*args)
        pixels[1, 0, 3, 3] = torch.nan
        return pixels

    monkeypatch.setattr(attacks, "perturb", broken)
    attack = "attack_iter --input-dir {i} --output-dir {o} --num-steps 1"
    status, _, err = run(attack, i=natural, o=tmp_path)
    second = sorted(file.name for file in natural.glob("*.png"))[1]
    assert (status, f"the gradient is not finite at 1 images: {second}" in err) == (1, True)
    assert not list(tmp_path.glob("*.png"))


def test_zero_gradients_are_warned_of_by_name(run, natural, tmp_path, monkeypatch):
    from suite import networks

    load_model = networks.load_model

    def constant(name, **options):
        model = load_model(name, **options)
        model.network.classifier.weight.zero_()
        return model

    monkeypatch.setattr(networks, "load_model", constant)
    attack = "attack_iter --input-dir {i} --output-dir {o} --num-steps 1"
    status, _, err = run(attack, i=natural, o=tmp_path)
    assert status == 0
    first = min(natural.glob("*.png")).name
    assert f"the gradient is zero at 6 images, which stay as they are: {first}" in err


def test_evaluation_on_the_source_and_jpegs_are_warned_of(run, natural, tmp_path):
    attack = "attack_iter --input-dir {i} --output-dir {o} --num-steps 1"
    assert run(attack, i=natural, o=tmp_path)[0] == 0
    for file in tmp_path.glob("*.png"):
        PIL.Image.open(file).resize((200, 190)).save(file, "JPEG")
    _, _, err = run("evaluate --input-dir {o} --arch efficientnet_lite0", o=tmp_path)
    assert "was crafted on efficientnet_lite0: white-box, no transfer" in err
    assert "is a JPEG: it washes perturbations out" in err
    assert "has the size (200, 190), but was written as [224, 224]" in err


def test_evaluation_on_any_source_of_an_ensemble_is_warned_of(run, natural, tmp_path):
    attack = (
        "attack_iter --input-dir {i} --output-dir {o} --num-steps 1 --ensemble gradients "
        "--arch efficientnet_lite0 efficientnet_lite1"
    )
    assert run(attack, i=natural, o=tmp_path)[0] == 0
    _, _, err = run("evaluate --input-dir {o} --arch efficientnet_lite1", o=tmp_path)
    assert "was crafted on efficientnet_lite1: white-box, no transfer" in err
