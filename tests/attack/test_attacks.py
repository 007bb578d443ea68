import foolbox
import pytest
import scipy.ndimage
import torch
from torch import nn

from suite import images, networks
from suite.attack import attacks, in_front
from suite.images import pictures
from utils_sgm import register_sgm


@pytest.fixture(scope="module")
def model():
    model = networks.load_model("efficientnet_lite0")
    register_sgm(model.network, "efficientnet_lite0", 0.5)
    return model


@pytest.fixture(scope="module")
def batch(natural):
    listed = images.list_images(natural)[:3]
    _, pixels = next(pictures.read_batches([listed[:3]]))
    return pictures.to_float(pixels), torch.tensor([image.label for image in listed])


def generators(seed=0, names="abc"):
    return attacks.image_generators(seed, names)


def input_gradient(module, pixels, weights):
    """Return the gradient of <weights, module(pixels)>."""
    pixels = pixels.clone().requires_grad_()
    (weights * module(pixels)).sum().backward()
    return pixels.grad


class Quadratic(nn.Module):
    """Logits (<w, x^2>, 0), whose gradient changes as x moves; keeps what it was given."""

    def __init__(self, size=2, seed=1):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weights = torch.randn(1, 3, size, size, generator=generator)
        self.seen = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return torch.stack([(x**2 * self.weights).flatten(1).sum(1), torch.zeros(len(x))], 1)

    def direction(self, x):
        """The loss's gradient at x with label 0, but for a positive factor."""
        return -2 * x * self.weights


@pytest.mark.parametrize("momentum", [0, 1])
def test_result_does_not_depend_on_the_batch(model, batch, momentum):
    pixels, labels = batch
    diversity = in_front.InputDiversity()
    attack = attacks.make_attack(nn.Sequential(diversity, model), 16, 2, 3, momentum)

    def perturbed(which):
        diversity.generators = attacks.image_generators(0, "abc"[which])
        start = attacks.random_start(pixels[which], 16, diversity.generators)
        return attacks.perturb(attack, pixels[which], labels[which], 16, start)

    together = perturbed(slice(0, 3))
    alone = torch.cat([perturbed(slice(n, n + 1)) for n in range(3)])
    # Rounding flips the sign of a few gradients near zero.
    assert (abs(together - alone) > 1e-3 / 255).float().mean() < 0.02


@pytest.mark.parametrize("momentum", [0, 1])
def test_input_is_unchanged_and_result_is_repeatable(model, batch, momentum):
    pixels, labels = batch
    before = pixels.clone()
    attack = attacks.make_attack(model, 16, 2, 2, momentum)
    first = attacks.perturb(attack, pixels, labels, 16)
    assert torch.equal(pixels, before)
    assert torch.equal(first, attacks.perturb(attack, pixels, labels, 16))


@pytest.mark.parametrize("momentum", [0, 0.7])
@pytest.mark.parametrize("targeted", [False, True])
def test_steps_on_a_linear_network_are_the_closed_form(momentum, targeted):
    """With two classes the gradient's direction never changes, so each step adds its sign."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).requires_grad_(False)
    away_from_0 = (network[1].weight[1] - network[1].weight[0]).view(1, 3, 2, 2).sign()
    pixels = torch.full((1, 3, 2, 2), 0.5)
    for steps, reached in [(1, 3), (2, 6), (5, 8)]:
        attack = attacks.make_attack(network, 8, 3, steps, momentum, targeted)
        adversarial = attacks.perturb(attack, pixels, torch.tensor([0]), 8)
        expected = pixels + (-1 if targeted else 1) * reached / 255 * away_from_0
        torch.testing.assert_close(adversarial, expected)


def test_fgsm_is_one_step_of_size_epsilon():
    network, pixels = Quadratic(), torch.rand(1, 3, 2, 2) * 0.5 + 0.2
    adversarial = attacks.perturb(
        attacks.make_attack(network, 16, 16, 1), pixels, torch.tensor([0]), 16
    )
    expected = pixels + 16 / 255 * network.direction(pixels).sign()
    torch.testing.assert_close(adversarial, expected)


@pytest.mark.parametrize("smoothed", [False, True])
def test_momentum_accumulates_gradients_of_norm_1(smoothed):
    """g = momentum * g + gradient / |gradient|_1; TI's convolution comes before the norm."""
    network, pixels = Quadratic(8), torch.rand(1, 3, 8, 8) * 0.05 + 0.001
    smoothing = in_front.TranslationInvariance(5, 2)
    smoothed_network = nn.Sequential(*[smoothing] * smoothed, network)
    attack = attacks.make_attack(smoothed_network, 200, 40, 4, 0.8)
    attacks.perturb(attack, pixels, torch.tensor([0]), 200)
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
    network = networks.load_model("efficientnet_lite1")
    ours = attacks.perturb(attacks.make_attack(network, 16, 2, 4, 1), pixels, labels, 16)
    theirs = MIFGSM(abs_stepsize=2 / 255, steps=4).run(
        foolbox.PyTorchModel(network, (0, 1), device="cpu"), pixels, labels, epsilon=16 / 255
    )
    assert (abs(ours - theirs) > 1e-3 / 255).float().mean() < 0.02


def gaussian(gradient, sigma, radius):
    array = scipy.ndimage.gaussian_filter(
        gradient.numpy(), (0, 0, sigma, sigma), mode="constant", radius=(0, 0, radius, radius)
    )
    return torch.from_numpy(array)


@pytest.mark.parametrize(("size", "sigma"), [(15, 3), (7, 2), (1, 3)])
def test_ti_smooths_the_gradient_as_scipy_does(size, sigma):
    smoothing = in_front.TranslationInvariance(size, sigma)
    pixels, gradient = torch.rand(2, 3, 20, 30), torch.randn(2, 3, 20, 30)
    radius = size // 2
    expected = gaussian(gradient, radius / sigma, radius) if radius else gradient
    torch.testing.assert_close(input_gradient(smoothing, pixels, gradient), expected)
    assert torch.equal(smoothing(pixels), pixels)


def test_di_with_probability_0_is_the_identity():
    diversity, pixels = in_front.InputDiversity(0), torch.rand(3, 3, 9, 9)
    diversity.generators = generators()
    assert torch.equal(diversity(pixels), pixels)


def test_di_transforms_as_often_as_its_probability_says():
    diversity, pixels = in_front.InputDiversity(0.3), torch.rand(600, 3, 9, 9)
    diversity.generators = generators(names=map(str, range(600)))
    same = (diversity(pixels) == pixels).flatten(1).all(1).float().mean()
    assert same == pytest.approx(0.7, abs=0.07)


def test_di_shrinks_images_by_a_uniform_factor_on_average():
    """White images keep the share (s / r)^2 of their area, s uniform in [1, r]; else black."""
    resize = 1.5
    diversity = in_front.InputDiversity(1, resize)
    diversity.generators = generators(names=map(str, range(400)))
    means = diversity(torch.ones(400, 3, 40, 40)).mean((1, 2, 3))
    expected = (resize**3 - 1) / (3 * (resize - 1)) / resize**2
    assert means.mean() == pytest.approx(expected, abs=0.02)
    assert means.min() == pytest.approx(1 / resize**2, abs=0.02)
    assert means.max() == pytest.approx(1, abs=0.02)


def test_di_places_images_everywhere():
    diversity = in_front.InputDiversity(1, 1.5)
    diversity.generators = generators(names=map(str, range(400)))
    average = diversity(torch.ones(400, 1, 40, 40)).mean(0)[0]
    torch.testing.assert_close(average, average.flip(0), atol=0.12, rtol=0)
    torch.testing.assert_close(average, average.flip(1), atol=0.12, rtol=0)
    assert average[0, 0] < average[20, 20]


def test_di_is_random_anew_in_each_step_and_for_each_image():
    diversity, pixels = in_front.InputDiversity(1), torch.rand(1, 3, 60, 60).expand(3, 3, 60, 60)
    diversity.generators = generators()
    first, second = diversity(pixels), diversity(pixels)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_random_start_is_uniform_in_the_ball_and_stays_in_it():
    natural = torch.rand(3, 3, 64, 64)
    start = attacks.random_start(natural, 16, generators())
    offset = (start - natural) * 255 / 16
    inside = offset[(natural > 16 / 255) & (natural < 1 - 16 / 255)]
    assert abs(offset).max() <= 1 + 1e-5
    assert inside.mean() == pytest.approx(0, abs=0.02)
    assert inside.std() == pytest.approx(3**-0.5, abs=0.02)
    assert 0 <= start.min() <= start.max() <= 1
    assert not torch.equal(start, attacks.random_start(natural, 16, generators(seed=1)))
    alone = attacks.random_start(natural[1:2], 16, generators(names="b"))
    assert torch.equal(alone, start[1:2])


@pytest.mark.parametrize("momentum", [0, 1])
def test_attack_from_a_random_start_ends_in_the_ball_around_the_natural_image(momentum):
    network, natural = Quadratic(16), torch.rand(3, 3, 16, 16)
    attack = attacks.make_attack(network, 8, 5, 10, momentum)
    start = attacks.random_start(natural, 8, generators())
    adversarial = attacks.perturb(attack, natural, torch.zeros(3, dtype=int), 8, start)
    torch.testing.assert_close(network.seen[0], start)
    assert abs(adversarial - natural).max() * 255 <= 8 + 1e-3
    assert 0 <= adversarial.min() <= adversarial.max() <= 1


def test_random_targets_are_never_the_label_and_reach_every_class():
    targets = attacks.random_targets([7] * 9000, generators(names=map(str, range(9000))))
    assert set(targets) == set(range(1000)) - {7}


@pytest.mark.parametrize("ensemble", [in_front.LogitEnsemble, in_front.GradientEnsemble])
def test_ensemble_of_one_attacks_as_the_network_does(ensemble):
    network, natural = Quadratic(8), torch.rand(2, 3, 8, 8)
    labels = torch.tensor([0, 1])
    alone, together = (
        attacks.perturb(attacks.make_attack(m, 16, 4, 5, 1), natural, labels, 16)
        for m in (network, ensemble([network]))
    )
    torch.testing.assert_close(together, alone)


def test_logit_ensemble_averages_logits():
    networks, pixels = [Quadratic(4, seed) for seed in range(3)], torch.rand(2, 3, 4, 4)
    expected = sum(network(pixels) for network in networks) / 3
    torch.testing.assert_close(in_front.LogitEnsemble(networks)(pixels), expected)


def test_gradient_ensemble_adds_gradients_of_norm_1():
    networks, pixels = [Quadratic(4, seed) for seed in range(3)], torch.rand(2, 3, 4, 4)
    networks[1].weights *= 1e-3  # its gradient alone would not count
    leaf = pixels.clone().requires_grad_()
    attack = attacks.make_attack(in_front.GradientEnsemble(networks), 16, 2, 1)
    attack.loss_fn(attack.predict(leaf), torch.tensor([0, 0])).backward()
    directions = [network.direction(pixels) for network in networks]
    expected = sum(d / d.abs().sum((1, 2, 3), keepdim=True) for d in directions)
    torch.testing.assert_close(leaf.grad, expected)


def test_gradient_ensemble_without_gradients_stays_finite():
    networks = [Quadratic(4, 0), Quadratic(4, 1)]
    networks[0].weights.zero_()
    attack = attacks.make_attack(in_front.GradientEnsemble(networks), 16, 2, 3, 1)
    natural = torch.rand(2, 3, 4, 4)
    assert attacks.perturb(attack, natural, torch.tensor([0, 0]), 16).isfinite().all()
