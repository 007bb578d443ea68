"""Attacks through defences: BPDA's gradient, EOT's average, SGM on the network behind."""

from dataclasses import replace

import pytest
import torch
from bases import SIZE, Small, generators, images
from conftest import input_gradient

from suite.attack.gammas import chosen_gammas
from suite.attack.loop import GradientAttack
from suite.attack.settings import Attack
from suite.attack.sources import Source, Sources
from suite.defences import defence_names
from suite.defences.defended import Defended, is_random
from suite.defences.inputs import BitDepth

PGD = Attack(24, 6, num_steps=3)


def behind(name, seed=0):
    """Return a small network behind the defences of a name, as of a classifier."""
    network = Small(seed)
    network.input_size, network.classes = (3, SIZE, SIZE), 4
    network.digests, network.crop_pct = {}, None
    return Defended(network, "small", defence_names.split_defences(name + "+small")[0])


def test_bpda_steps_by_the_gradient_at_the_defended_pixels():
    natural, labels = images()
    x = natural
    for _ in range(PGD.num_steps):
        step = input_gradient(Small(), BitDepth(2)(x), labels).sign() * 6 / 255
        x = (x + step).clamp(natural - 24 / 255, natural + 24 / 255).clamp(0, 1)
    ours = GradientAttack(PGD, [behind("bits:2")]).perturb(natural, labels)
    torch.testing.assert_close(ours, x, atol=1e-7, rtol=0)
    assert not ours.allclose(GradientAttack(PGD, [Small()]).perturb(natural, labels))


def test_eot_steps_by_the_average_gradient_of_the_draws():
    natural, labels = images()
    attack = Attack(24, 24, num_steps=1, momentum=1, eot=5)
    ours = GradientAttack(attack, [behind("smooth:0.3")]).perturb(natural, labels)
    total, drawn = torch.zeros_like(natural), generators("012")
    for _ in range(5):
        noise = [torch.randn(natural.shape[1:], dtype=torch.double, generator=g) for g in drawn]
        total += input_gradient(Small(), natural + 0.3 * torch.stack(noise), labels)
    assert attack.evaluations == 5
    assert attack.name.endswith("+EOT")
    inside = (natural > 0) & (natural < 1)
    assert ((ours - natural).sign() == total.sign())[inside].float().mean() > 0.999


@pytest.mark.parametrize("attack", [PGD, replace(PGD, eot=3, di_prob=0.5)])
def test_random_defence_is_of_the_image_alone(attack):
    natural, labels = images()
    attacker = GradientAttack(attack, [behind("smooth:0.3:20")])
    together = attacker(natural, labels, generators())
    alone = attacker(natural[2:], labels[2:], generators("c"))
    torch.testing.assert_close(alone, together[2:], atol=1e-9, rtol=0)
    other = GradientAttack(attack, [behind("smooth:0.3:20")])
    assert not other(natural, labels, generators(seed=1)).allclose(together)


def test_hooks_are_those_of_the_network_behind_the_defence():
    source = Source(behind("bits:2"), gamma=0.5, name="bits:2+small")
    assert len(source.register_sgm()) == 1
    assert (Sources([source]).name, source.architecture) == ("bits:2+small", "small")


def test_network_that_draws_is_said_to():
    assert [is_random(behind(kind)) for kind in ("bits", "bits+rp", "smooth")] == [0, 1, 1]


def test_published_gamma_is_that_of_the_network_behind_the_defence():
    assert chosen_gammas(["auto"], ["bits:3+resnet152"], 10)[0] == [0.2]
