import foolbox
import pytest
import torch
from quadratic import Quadratic, gaussian, generators
from torch import nn

from suite.attack.attacks import make_attack, perturb, random_start, random_targets
from suite.attack.in_front import InputDiversity, TranslationInvariance
from suite.images import pictures
from suite.images.folders import list_images
from suite.networks.classifier import load_model
from suite.running import random_numbers
from suite.running.random_numbers import image_generators
from utils_sgm import register_sgm


@pytest.fixture(scope="module")
def model():
    model = load_model("efficientnet_lite0")
    register_sgm(model.network, "efficientnet_lite0", 0.5)
    return model


@pytest.fixture(scope="module")
def batch(natural):
    listed = list_images(natural)[:3]
    _, pixels = next(pictures.read_batches([listed[:3]]))
    return pictures.to_float(pixels), torch.tensor([image.label for image in listed])


@pytest.mark.parametrize("momentum", [0, 1])
def test_result_does_not_depend_on_the_batch(model, batch, momentum):
    pixels, labels = batch
    diversity = InputDiversity()
    attack = make_attack(nn.Sequential(diversity, model), 16, 2, 3, momentum)

    def perturbed(which):
        diversity.generators = image_generators(0, "abc"[which])
        start = random_start(pixels[which], 16, diversity.generators)
        return perturb(attack, pixels[which], labels[which], 16, start)

    together = perturbed(slice(0, 3))
    alone = torch.cat([perturbed(slice(n, n + 1)) for n in range(3)])
    # Rounding flips the sign of a few gradients near zero.
    assert (abs(together - alone) > 1e-3 / 255).float().mean() < 0.02


@pytest.mark.parametrize("momentum", [0, 1])
def test_input_is_unchanged_and_result_is_repeatable(model, batch, momentum):
    pixels, labels = batch
    before = pixels.clone()
    attack = make_attack(model, 16, 2, 2, momentum)
    first = perturb(attack, pixels, labels, 16)
    assert torch.equal(pixels, before)
    assert torch.equal(first, perturb(attack, pixels, labels, 16))


@pytest.mark.parametrize("momentum", [0, 0.7])
@pytest.mark.parametrize("targeted", [False, True])
def test_steps_on_a_linear_network_are_the_closed_form(momentum, targeted):
    """With two classes the gradient's direction never changes, so each step adds its sign."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).requires_grad_(False)
    away_from_0 = (network[1].weight[1] - network[1].weight[0]).view(1, 3, 2, 2).sign()
    pixels = torch.full((1, 3, 2, 2), 0.5)
    for steps, reached in [(1, 3), (2, 6), (5, 8)]:
        attack = make_attack(network, 8, 3, steps, momentum, targeted)
        adversarial = perturb(attack, pixels, torch.tensor([0]), 8)
        expected = pixels + (-1 if targeted else 1) * reached / 255 * away_from_0
        torch.testing.assert_close(adversarial, expected)


def test_fgsm_is_one_step_of_size_epsilon():
    network, pixels = Quadratic(), torch.rand(1, 3, 2, 2) * 0.5 + 0.2
    adversarial = perturb(make_attack(network, 16, 16, 1), pixels, torch.tensor([0]), 16)
    expected = pixels + 16 / 255 * network.direction(pixels).sign()
    torch.testing.assert_close(adversarial, expected)


@pytest.mark.parametrize("smoothed", [False, True])
def test_momentum_accumulates_gradients_of_norm_1(smoothed):
    """g = momentum * g + gradient / |gradient|_1; TI's convolution comes before the norm."""
    network, pixels = Quadratic(8), torch.rand(1, 3, 8, 8) * 0.05 + 0.001
    smoothing = TranslationInvariance(5, 2)
    smoothed_network = nn.Sequential(*[smoothing] * smoothed, network)
    attack = make_attack(smoothed_network, 200, 40, 4, 0.8)
    perturb(attack, pixels, torch.tensor([0]), 200)
    x, g = pixels.clone(), torch.zeros_like(pixels)
    for seen in network.seen:
        torch.testing.assert_close(seen, x)
        gradient = network.direction(x)
        if smoothed:
            gradient = gaussian(gradient, 2 / 2, 2)
        g = 0.8 * g + gradient / gradient.abs().sum()
        x = (x + 40 / 255 * g.sign()).clamp(0, 1)
    assert len(network.seen) == 4


def test_mi_fgsm_equals_foolboxs(batch):
    class MIFGSM(foolbox.attacks.LinfMomentumIterativeFastGradientMethod):
        """foolbox accumulates the gradients' signs; the paper divides them by their L1 norm."""

        def normalize(self, gradients, *, x, bounds):
            return gradients / gradients.abs().sum(axis=(1, 2, 3), keepdims=True)

    pixels, labels = batch
    network = load_model("efficientnet_lite1")
    ours = perturb(make_attack(network, 16, 2, 4, 1), pixels, labels, 16)
    theirs = MIFGSM(abs_stepsize=2 / 255, steps=4).run(
        foolbox.PyTorchModel(network, (0, 1), device="cpu"), pixels, labels, epsilon=16 / 255
    )
    assert (abs(ours - theirs) > 1e-3 / 255).float().mean() < 0.02


def test_random_start_is_uniform_in_the_ball_and_stays_in_it():
    natural = torch.rand(3, 3, 64, 64)
    start = random_start(natural, 16, generators())
    offset = (start - natural) * 255 / 16
    inside = offset[(natural > 16 / 255) & (natural < 1 - 16 / 255)]
    assert abs(offset).max() <= 1 + 1e-5
    assert inside.mean() == pytest.approx(0, abs=0.02)
    assert inside.std() == pytest.approx(3**-0.5, abs=0.02)
    assert 0 <= start.min() <= start.max() <= 1
    assert not torch.equal(start, random_start(natural, 16, generators(seed=1)))
    alone = random_start(natural[1:2], 16, generators(names="b"))
    assert torch.equal(alone, start[1:2])


@pytest.mark.parametrize("draw", [random_numbers.uniform_noise, random_numbers.drawn_by_seeds])
def test_noise_is_uniform_anew_each_time_and_of_the_image_alone(draw):
    pixels, drawn_from = torch.zeros(3, 3, 50, 50), generators()
    first, second = (draw(pixels.clone(), drawn_from) for _ in range(2))
    assert [first.min(), first.max()] == pytest.approx([-1, 1], abs=1e-3)
    assert first.mean() == pytest.approx(0, abs=0.02)
    assert first.std() == pytest.approx(3**-0.5, abs=0.02)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(draw(pixels[1:2].clone(), generators(names="b")), first[1:2])


@pytest.mark.parametrize("momentum", [0, 1])
def test_attack_from_a_random_start_ends_in_the_ball_around_the_natural_image(momentum):
    network, natural = Quadratic(16), torch.rand(3, 3, 16, 16)
    attack = make_attack(network, 8, 5, 10, momentum)
    start = random_start(natural, 8, generators())
    adversarial = perturb(attack, natural, torch.zeros(3, dtype=int), 8, start)
    torch.testing.assert_close(network.seen[0], start)
    assert abs(adversarial - natural).max() * 255 <= 8 + 1e-3
    assert 0 <= adversarial.min() <= adversarial.max() <= 1


def test_random_targets_are_never_the_label_and_reach_every_class():
    targets = random_targets([7] * 9000, generators(names=map(str, range(9000))))
    assert set(targets) == set(range(1000)) - {7}
