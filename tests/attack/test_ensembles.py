"""Ensembles of logits and of gradients."""

from dataclasses import replace

import pytest
import torch
from bases import BASES, EVERYTHING, MI, Quadratic, Small, images, perturbed, pool

from suite.attack.ensembles import LogitEnsemble, with_unit_gradient
from suite.attack.loop import GradientAttack
from suite.attack.losses import cross_entropy_loss


@pytest.mark.parametrize("ensemble", ["logits", "gradients"])
def test_ensemble_of_one_attacks_as_the_network_does(ensemble):
    network, natural = Quadratic(8), torch.rand(2, 3, 8, 8)
    labels, settings = torch.tensor([0, 1]), {"step_size": 4, "num_steps": 5, "momentum": 1}
    alone = perturbed(network, natural, labels, **settings)
    torch.testing.assert_close(
        perturbed([network], natural, labels, ensemble=ensemble, **settings), alone
    )


def test_logit_ensemble_averages_logits():
    networks, pixels = [Quadratic(4, seed) for seed in range(3)], torch.rand(2, 3, 4, 4)
    expected = sum(network(pixels) for network in networks) / 3
    torch.testing.assert_close(LogitEnsemble(networks)(pixels), expected)


def test_gradient_ensemble_adds_gradients_of_norm_1():
    networks, pixels = [Quadratic(4, seed) for seed in range(3)], torch.rand(2, 3, 4, 4)
    networks[1].weights *= 1e-3  # its gradient alone would not count
    leaf, labels = pixels.clone().requires_grad_(), torch.tensor([0, 0])
    for network in networks:
        cross_entropy_loss(network(with_unit_gradient(leaf)), labels).backward()
    directions = [network.direction(pixels) for network in networks]
    expected = sum(d / d.abs().sum((1, 2, 3), keepdim=True) for d in directions)
    torch.testing.assert_close(leaf.grad, expected)
    result = perturbed(networks, pixels, labels, ensemble="gradients", num_steps=1)
    assert torch.equal((result - pixels).sign()[expected != 0], expected.sign()[expected != 0])


def test_ensemble_of_gradients_is_normalised_in_each_pass():
    (natural, labels), networks = images(), [Small(), Small(1)]
    gradient = torch.zeros_like(natural)
    for network in networks:
        for i in range(2):
            x = natural.clone().div_(2**i).requires_grad_()
            (g,) = torch.autograd.grad(cross_entropy_loss(network(x), labels), x)
            gradient += g / g.abs().sum((1, 2, 3), keepdim=True) / 2**i
    attack = GradientAttack(replace(MI, scales=2, ensemble="gradients"), networks)
    found = attack._gradient(attack.batch(natural, labels), natural)
    torch.testing.assert_close(found, gradient / 2)


def test_gradient_ensemble_without_gradients_stays_finite():
    networks = [Quadratic(4, 0), Quadratic(4, 1)]
    networks[0].weights.zero_()
    settings = {"ensemble": "gradients", "num_steps": 3, "momentum": 1}
    result = perturbed(networks, torch.rand(2, 3, 4, 4), torch.tensor([0, 0]), **settings)
    assert result.isfinite().all()


@pytest.mark.parametrize("name", [*BASES, "all"])
def test_sgm_and_both_kinds_of_ensembles_change_the_attack(name):
    attack, (natural, labels) = EVERYTHING[name], images()
    results = [
        GradientAttack(attack, [Small(gamma=0.2)], pool()),
        GradientAttack(attack, [Small()], pool()),
        GradientAttack(attack, [Small(), Small(1, gamma=0.5)], pool()),
        GradientAttack(replace(attack, ensemble="gradients"), [Small(), Small(1)], pool()),
    ]
    results = [each.perturb(natural, labels) for each in results]
    assert all((abs(r - natural) * 255).max() <= attack.epsilon + 1e-9 for r in results)
    assert not any(torch.equal(r, s) for n, r in enumerate(results) for s in results[:n])
