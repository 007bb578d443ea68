"""DI, TI and ensembles: what goes in front of a network."""

import pytest
import torch
from quadratic import Quadratic, gaussian, generators

from suite.attack.attacks import make_attack, perturb
from suite.attack.in_front import (
    GradientEnsemble,
    InputDiversity,
    LogitEnsemble,
    TranslationInvariance,
)


def input_gradient(module, pixels, weights):
    """Return the gradient of <weights, module(pixels)>."""
    pixels = pixels.clone().requires_grad_()
    (weights * module(pixels)).sum().backward()
    return pixels.grad


@pytest.mark.parametrize(("size", "sigma"), [(15, 3), (7, 2), (1, 3)])
def test_ti_smooths_the_gradient_as_scipy_does(size, sigma):
    smoothing = TranslationInvariance(size, sigma)
    pixels, gradient = torch.rand(2, 3, 20, 30), torch.randn(2, 3, 20, 30)
    radius = size // 2
    expected = gaussian(gradient, radius / sigma, radius) if radius else gradient
    torch.testing.assert_close(input_gradient(smoothing, pixels, gradient), expected)
    assert torch.equal(smoothing(pixels), pixels)


def test_di_with_probability_0_is_the_identity():
    diversity, pixels = InputDiversity(0), torch.rand(3, 3, 9, 9)
    diversity.generators = generators()
    assert torch.equal(diversity(pixels), pixels)


def test_di_transforms_as_often_as_its_probability_says():
    diversity, pixels = InputDiversity(0.3), torch.rand(600, 3, 9, 9)
    diversity.generators = generators(names=map(str, range(600)))
    same = (diversity(pixels) == pixels).flatten(1).all(1).float().mean()
    assert same == pytest.approx(0.7, abs=0.07)


def test_di_shrinks_images_by_a_uniform_factor_on_average():
    """White images keep the share (s / r)^2 of their area, s uniform in [1, r]; else black."""
    resize = 1.5
    diversity = InputDiversity(1, resize)
    diversity.generators = generators(names=map(str, range(400)))
    means = diversity(torch.ones(400, 3, 40, 40)).mean((1, 2, 3))
    expected = (resize**3 - 1) / (3 * (resize - 1)) / resize**2
    assert means.mean() == pytest.approx(expected, abs=0.02)
    assert means.min() == pytest.approx(1 / resize**2, abs=0.02)
    assert means.max() == pytest.approx(1, abs=0.02)


def test_di_places_images_everywhere():
    diversity = InputDiversity(1, 1.5)
    diversity.generators = generators(names=map(str, range(400)))
    average = diversity(torch.ones(400, 1, 40, 40)).mean(0)[0]
    torch.testing.assert_close(average, average.flip(0), atol=0.12, rtol=0)
    torch.testing.assert_close(average, average.flip(1), atol=0.12, rtol=0)
    assert average[0, 0] < average[20, 20]


def test_di_is_random_anew_in_each_step_and_for_each_image():
    diversity, pixels = InputDiversity(1), torch.rand(1, 3, 60, 60).expand(3, 3, 60, 60)
    diversity.generators = generators()
    first, second = diversity(pixels), diversity(pixels)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("ensemble", [LogitEnsemble, GradientEnsemble])
def test_ensemble_of_one_attacks_as_the_network_does(ensemble):
    network, natural = Quadratic(8), torch.rand(2, 3, 8, 8)
    labels = torch.tensor([0, 1])
    alone, together = (
        perturb(make_attack(m, 16, 4, 5, 1), natural, labels, 16)
        for m in (network, ensemble([network]))
    )
    torch.testing.assert_close(together, alone)


def test_logit_ensemble_averages_logits():
    networks, pixels = [Quadratic(4, seed) for seed in range(3)], torch.rand(2, 3, 4, 4)
    expected = sum(network(pixels) for network in networks) / 3
    torch.testing.assert_close(LogitEnsemble(networks)(pixels), expected)


def test_gradient_ensemble_adds_gradients_of_norm_1():
    networks, pixels = [Quadratic(4, seed) for seed in range(3)], torch.rand(2, 3, 4, 4)
    networks[1].weights *= 1e-3  # its gradient alone would not count
    leaf = pixels.clone().requires_grad_()
    attack = make_attack(GradientEnsemble(networks), 16, 2, 1)
    attack.loss_fn(attack.predict(leaf), torch.tensor([0, 0])).backward()
    directions = [network.direction(pixels) for network in networks]
    expected = sum(d / d.abs().sum((1, 2, 3), keepdim=True) for d in directions)
    torch.testing.assert_close(leaf.grad, expected)


def test_gradient_ensemble_without_gradients_stays_finite():
    networks = [Quadratic(4, 0), Quadratic(4, 1)]
    networks[0].weights.zero_()
    attack = make_attack(GradientEnsemble(networks), 16, 2, 3, 1)
    natural = torch.rand(2, 3, 4, 4)
    assert perturb(attack, natural, torch.tensor([0, 0]), 16).isfinite().all()
