"""The attack on tensors, which attack_iter.py takes over folders."""

import pytest
import torch
from conftest import calibrated
from quadratic import Quadratic
from small import ATTACK, folder
from torch import nn

from suite.attack.attacker import Attacker
from suite.attack.settings import Attack
from suite.attack.sources import Source
from suite.images.folders import list_images
from suite.images.pictures import read_batches, to_float, to_uint8
from suite.networks.classifier import load_model
from suite.running.random_numbers import image_generators

__all__ = ["folder"]


@pytest.mark.parametrize(
    ("options", "attack"),
    [
        ("", Attack(num_steps=2)),
        ("--momentum 1 --ti-kernel 5", Attack(num_steps=2, momentum=1, ti_kernel=5)),
        (
            "--rand-init --di-prob 1 --seed 3 --epsilon 8 --step-size -1",
            Attack(8, 4, num_steps=2, rand_init=True, di_prob=1, seed=3),
        ),
    ],
)
def test_script_saves_what_the_attack_on_tensors_returns(run, folder, options, attack):
    assert run(f"{ATTACK}ten --gamma 0.5 {options}", x=folder)[0] == 0
    listed = list_images(folder / "nat")
    ((_, pixels),) = read_batches([listed])
    ((_, saved),) = read_batches([list_images(folder / "adv")])

    model = load_model(f"{folder}/nets.py:ten").accelerate()
    attacker = Attacker(attack, [Source(model, 0.5)])
    result = attacker(
        to_float(pixels),
        torch.tensor([image.label for image in listed]),
        image_generators(attack.seed, [image.name for image in listed]),
    )
    assert torch.equal(to_uint8(result, pixels, attack.epsilon), saved)


class Residual(nn.Module):
    input_size = 8

    def __init__(self):
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, pixels):
        features = self.stem(pixels)
        return (features + self.branch(features)).flatten(1)


def test_any_module_can_be_a_source():
    module = Residual().eval().requires_grad_(False)
    natural, labels = torch.rand(2, 3, 8, 8), torch.tensor([1, 2])
    plain = Attacker(Attack(num_steps=1), [Source(module)])(natural, labels)
    attacker = Attacker(Attack(num_steps=1), [Source(module, gamma=0.1)])
    assert (attacker.hooks, len(attacker.handles)) == (["branch"], 1)
    assert not torch.equal(attacker(natural, labels), plain)
    torch.testing.assert_close(attacker.logits, module(natural))
    for handle in attacker.handles:
        handle.remove()
    assert torch.equal(attacker(natural, labels), plain)


def test_random_numbers_depend_on_seed_and_place_where_none_are_given():
    network = Quadratic(8).eval()
    natural, labels = torch.rand(3, 3, 8, 8), torch.tensor([0, 0, 0])
    results = [
        Attacker(Attack(num_steps=1, step_size=0, rand_init=True, seed=s), [Source(network)])
        for s in (1, 1, 2)
    ]
    first, again, other = (attacker(natural, labels) for attacker in results)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first[0] - natural[0], first[1] - natural[1])


def test_network_in_training_mode_is_refused():
    with pytest.raises(ValueError, match="mine is in training mode"):
        Attacker(Attack(), [Source(Residual().train(), name="mine")])


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (Attack(), "PGD"),
        (Attack(momentum=0.5), "MI-FGSM"),
        (Attack(num_steps=1, step_size=16), "FGSM"),
        (Attack(num_steps=1), "PGD"),
        (Attack(momentum=1, di_prob=0.5, ti_kernel=15, targeted=True), "targeted MI-FGSM+DI+TI"),
    ],
)
def test_attack_has_the_field_s_name(attack, name):
    assert attack.name == name


def test_ensembles_are_named_by_their_members():
    network = calibrated(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), 2)
    sources = [Source(network, name="a"), Source(network, name="b")]
    assert Attacker(Attack(), sources).name == "a + b"
    assert Attacker(Attack(ensemble="gradients"), sources).name == "a + b (gradients)"
    assert Attacker(Attack(ensemble="gradients"), sources[:1]).name == "a"
