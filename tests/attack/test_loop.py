"""The loop: its steps against closed forms, formulas in plain torch, and other libraries."""

from dataclasses import replace

import foolbox
import pytest
import torch
from bases import ALL, BASES, EVERYTHING, MI, Small, images, pool
from hypothesis import given, settings
from hypothesis import strategies as st
from quadratic import Quadratic, gaussian, generators, perturbed
from torch import nn

from suite.attack.loop import GradientAttack
from suite.attack.losses import LOSS_FUNCTIONS
from suite.attack.transformations import input_diversity, shuffle_blocks
from suite.images.folders import list_images
from suite.images.pictures import read_batches, to_float, to_uint8
from suite.networks.classifier import load_model
from suite.running.random_numbers import image_generators
from utils_sgm import register_sgm


def attack_of(name, network=None):
    return GradientAttack(EVERYTHING[name], [network or Small()], pool())


@pytest.fixture(scope="module")
def model():
    model = load_model("efficientnet_lite0")
    register_sgm(model.network, "efficientnet_lite0", 0.5)
    return model


@pytest.fixture(scope="module")
def batch(natural):
    listed = list_images(natural)[:3]
    _, pixels = next(read_batches([listed]))
    return to_float(pixels), torch.tensor([image.label for image in listed])


@pytest.mark.parametrize("momentum", [0, 1])
def test_result_does_not_depend_on_the_batch(model, batch, momentum):
    pixels, labels = batch
    attack = {"num_steps": 3, "momentum": momentum, "di_prob": 0.5, "rand_init": True}

    def result(which):
        drawn = image_generators(0, "abc"[which])
        return perturbed(model, pixels[which], labels[which], drawn, **attack)

    together = result(slice(0, 3))
    alone = torch.cat([result(slice(n, n + 1)) for n in range(3)])
    # Rounding flips the sign of a few gradients near zero.
    assert (abs(together - alone) > 1e-3 / 255).float().mean() < 0.02


@pytest.mark.parametrize("momentum", [0, 1])
def test_input_is_unchanged_and_result_is_repeatable(model, batch, momentum):
    pixels, labels = batch
    before = pixels.clone()
    first = perturbed(model, pixels, labels, num_steps=2, momentum=momentum)
    assert torch.equal(pixels, before)
    assert torch.equal(first, perturbed(model, pixels, labels, num_steps=2, momentum=momentum))


@pytest.mark.parametrize("momentum", [0, 0.7])
@pytest.mark.parametrize("targeted", [False, True])
def test_steps_on_a_linear_network_are_the_closed_form(momentum, targeted):
    """With two classes the gradient's direction never changes, so each step adds its sign."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).requires_grad_(False)
    away_from_0 = (network[1].weight[1] - network[1].weight[0]).view(1, 3, 2, 2).sign()
    pixels = torch.full((1, 3, 2, 2), 0.5)
    attack = {"epsilon": 8, "step_size": 3, "momentum": momentum, "targeted": targeted}
    for steps, reached in [(1, 3), (2, 6), (5, 8)]:
        adversarial = perturbed(network, pixels, torch.tensor([0]), num_steps=steps, **attack)
        expected = pixels + (-1 if targeted else 1) * reached / 255 * away_from_0
        torch.testing.assert_close(adversarial, expected)


def test_fgsm_is_one_step_of_size_epsilon():
    network, pixels = Quadratic(), torch.rand(1, 3, 2, 2) * 0.5 + 0.2
    adversarial = perturbed(network, pixels, torch.tensor([0]), num_steps=1, step_size=16)
    expected = pixels + 16 / 255 * network.direction(pixels).sign()
    torch.testing.assert_close(adversarial, expected)


@pytest.mark.parametrize("smoothed", [False, True])
def test_momentum_accumulates_gradients_of_norm_1(smoothed):
    """g = momentum * g + gradient / |gradient|_1; TI's convolution comes before the norm."""
    network, pixels = Quadratic(8), torch.rand(1, 3, 8, 8) * 0.05 + 0.001
    attack = {"epsilon": 200, "step_size": 40, "num_steps": 4, "momentum": 0.8}
    ti = {"ti_kernel": 5, "ti_sigma": 2} if smoothed else {}
    perturbed(network, pixels, torch.tensor([0]), **attack, **ti)
    x, g = pixels.clone(), torch.zeros_like(pixels)
    for seen in network.seen:
        torch.testing.assert_close(seen, x)
        gradient = network.direction(x)
        if smoothed:
            gradient = gaussian(gradient, 2 / 2, 2)
        g = 0.8 * g + gradient / gradient.abs().sum()
        x = (x + 40 / 255 * g.sign()).clamp(0, 1)
    assert len(network.seen) == 4


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_gradients_that_are_tiny_in_some_steps_count_as_the_formula_says(dtype):
    """MI's norm has no floor: a gradient of 1e-9 times its size is divided like the others."""

    class Faint(Quadratic):
        def forward(self, x):
            return super().forward(x) * (1e-9 if len(self.seen) % 2 else 1)

    network, pixels = Faint(8).to(dtype), torch.rand(1, 3, 8, 8, dtype=dtype) * 0.5 + 0.2
    network.weights = network.weights.to(dtype)
    attack = {"loss": "logit", "step_size": 6, "num_steps": 6, "momentum": 1}
    perturbed(network, pixels, torch.tensor([0]), **attack)
    x, g = pixels.clone(), torch.zeros_like(pixels)
    for seen in network.seen:
        torch.testing.assert_close(seen, x)
        g = g + network.direction(x) / network.direction(x).abs().sum()
        x = (x + 6 / 255 * g.sign()).clamp(pixels - 16 / 255, pixels + 16 / 255)


@pytest.mark.parametrize("name", ["MI", "NI"])
def test_tiny_gradients_give_the_same_attack_and_zero_ones_none(name):
    natural, labels = images()
    results = []
    for scale in (1, 1e-12, 0):
        network = Small()
        network.head.weight *= scale
        attack = replace(MI, nesterov=name == "NI", loss="logit")
        results.append(GradientAttack(attack, [network]).perturb(natural, labels))
    torch.testing.assert_close(results[1], results[0])
    assert torch.equal(results[2], natural)


@pytest.mark.parametrize("name", ["SI without momentum", "NI"])
def test_gradient_that_is_no_number_shows_in_its_image_alone(name):
    class Broken(Small):
        def forward(self, x):
            if x.requires_grad:
                x.register_hook(
                    lambda grad: grad * torch.tensor([1, torch.nan, 1])[:, None, None, None]
                )
            return super().forward(x)

    natural, labels = images()
    whole, broken = (attack_of(name, each).perturb(natural, labels) for each in (Small(), Broken()))
    assert broken.isnan().flatten(1).any(1).tolist() == [False, True, False]
    assert torch.equal(broken[::2], whole[::2])


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("momentum", [0, 0.9])
def test_steps_are_those_of_advertorch_in_float64(momentum, targeted):
    from advertorch.attacks import LinfPGDAttack, MomentumIterativeAttack

    natural, labels = images()
    arguments = {"eps": 24 / 255, "eps_iter": 6 / 255, "nb_iter": 7, "targeted": targeted}
    arguments["loss_fn"] = nn.CrossEntropyLoss(reduction="sum")
    if momentum:
        theirs = MomentumIterativeAttack(Small(), decay_factor=momentum, **arguments)
    else:
        theirs = LinfPGDAttack(Small(), rand_init=False, **arguments)
    settings = {"epsilon": 24, "step_size": 6, "num_steps": 7, "targeted": targeted}
    ours = perturbed(Small(), natural, labels, momentum=momentum, **settings)
    torch.testing.assert_close(ours, theirs.perturb(natural, labels), rtol=0, atol=1e-12)


def test_attack_goes_where_attacks_of_advertorch_go():
    from advertorch.attacks.utils import multiple_mini_batch_attack

    natural, labels = images()
    batches = [(natural[:2], labels[:2]), (natural[2:], labels[2:])]
    attack, network = attack_of("NI"), Small()
    true, natural_answers, answers, _ = multiple_mini_batch_attack(attack, batches, device="cpu")
    expected = torch.cat([attack(*each) for each in batches])
    torch.testing.assert_close(answers, network(expected).argmax(1))
    torch.testing.assert_close(natural_answers, network(natural).argmax(1))
    assert torch.equal(true, labels)


def test_mi_fgsm_equals_foolboxs(batch):
    class MIFGSM(foolbox.attacks.LinfMomentumIterativeFastGradientMethod):
        """foolbox accumulates the gradients' signs; the paper divides them by their L1 norm."""

        def normalize(self, gradients, *, x, bounds):
            return gradients / gradients.abs().sum(axis=(1, 2, 3), keepdims=True)

    pixels, labels = batch
    network = load_model("efficientnet_lite1")
    ours = perturbed(network, pixels, labels, num_steps=4, momentum=1)
    theirs = MIFGSM(abs_stepsize=2 / 255, steps=4).run(
        foolbox.PyTorchModel(network, (0, 1), device="cpu"), pixels, labels, epsilon=16 / 255
    )
    assert (abs(ours - theirs) > 1e-3 / 255).float().mean() < 0.02


def test_random_start_is_uniform_in_the_ball_and_stays_in_it():
    natural, labels = torch.rand(3, 3, 64, 64), torch.zeros(3).long()

    def start(which=slice(None), seed=0):
        drawn = generators(seed, "abc"[which])
        still = {"num_steps": 1, "step_size": 0, "rand_init": True}
        return perturbed(Quadratic(64), natural[which], labels[which], drawn, **still)

    offset = (start() - natural) * 255 / 16
    inside = offset[(natural > 16 / 255) & (natural < 1 - 16 / 255)]
    assert abs(offset).max() <= 1 + 1e-5
    assert inside.mean() == pytest.approx(0, abs=0.02)
    assert inside.std() == pytest.approx(3**-0.5, abs=0.02)
    assert 0 <= start().min() <= start().max() <= 1
    assert not torch.equal(start(), start(seed=1))
    assert torch.equal(start(slice(1, 2)), start()[1:2])


@pytest.mark.parametrize("momentum", [0, 1])
def test_attack_from_a_random_start_ends_in_the_ball_around_the_natural_image(momentum):
    network, natural = Quadratic(16), torch.rand(3, 3, 16, 16)
    settings = {"epsilon": 8, "step_size": 5, "rand_init": True, "momentum": momentum}
    adversarial = perturbed(network, natural, torch.zeros(3).long(), generators(), **settings)
    assert not torch.equal(network.seen[0], natural)
    assert abs(network.seen[0] - natural).max() * 255 <= 8 + 1e-3
    assert abs(adversarial - natural).max() * 255 <= 8 + 1e-3
    assert 0 <= adversarial.min() <= adversarial.max() <= 1


@settings(max_examples=200, deadline=None)
@given(
    epsilon=st.floats(0, 64),
    step=st.floats(0, 64),
    steps=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_no_pixel_leaves_the_ball_or_the_range(epsilon, step, steps, seed):
    generator = torch.Generator().manual_seed(seed)
    natural = torch.randint(0, 256, (2, 3, 5, 5), generator=generator, dtype=torch.uint8)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(75, 4, bias=False)).requires_grad_(False)
    linear[1].weight.copy_(torch.randn(4, 75, generator=generator))
    attack = {"momentum": seed % 2, "rand_init": seed % 3 > 0, "seed": seed}
    result = perturbed(
        linear,
        to_float(natural),
        torch.tensor([0, 1]),
        None,
        epsilon=epsilon,
        step_size=step,
        num_steps=steps,
        **attack,
    )
    saved = to_uint8(result, natural, epsilon)
    assert saved.dtype == torch.uint8
    assert abs(saved.int() - natural.int()).max() <= epsilon


def by_formula(attack, network, natural, labels, drawn, mixed):
    """Craft an image, 1 x 3 x H x W; all copies of one point are one batch."""
    (generator,) = drawn
    others = mixed.pixels[mixed.labels != labels] / 255
    up = -1 if attack.targeted else 1

    def uniform(*shape):
        return torch.rand(shape, dtype=torch.double, generator=generator)

    def noise_like(x):
        return torch.empty_like(x).uniform_(-1, 1, generator=generator)

    def gradient(x):
        x = x.detach().requires_grad_()
        copies = []
        for _ in range(attack.admix or 1):
            other = 0
            if attack.admix:
                other = attack.admix_ratio * others[int(uniform(1) * len(others))]
            for _ in range(attack.block_shuffle or 1):
                for i in range(attack.scales):
                    copy = (x + other) / 2**i
                    copy = shuffle_blocks(copy, drawn) if attack.block_shuffle else copy
                    if attack.di_prob:
                        copy = input_diversity(copy, attack.di_prob, attack.di_resize, drawn)
                    copies.append(copy)
        loss = LOSS_FUNCTIONS[attack.loss](network(torch.cat(copies)), labels.expand(len(copies)))
        return torch.autograd.grad(loss / len(copies), x)[0]

    x, momentum, variance = natural, 0, 0
    if attack.rand_init:
        x = (natural + noise_like(natural) * attack.epsilon / 255).clamp(0, 1)
    for step in range(attack.num_steps):
        ahead = x + up * attack.nesterov * attack.step_size / 255 * attack.momentum * momentum
        new = gradient(ahead)
        g, radius = new + variance, attack.ti_kernel // 2
        g = gaussian(g, radius / 3, radius) if radius else g
        momentum = attack.momentum * momentum + g / g.abs().mean()
        if attack.variance and step < attack.num_steps - 1:
            reach, near = attack.variance_bound * attack.epsilon / 255, 0
            for _ in range(attack.variance):
                near = near + gradient(x + reach * noise_like(x))
            variance = near / attack.variance - new
        x = x + up * attack.step_size / 255 * momentum.sign()
        x = x.clamp(natural - attack.epsilon / 255, natural + attack.epsilon / 255).clamp(0, 1)
    return x


@pytest.mark.parametrize("name", EVERYTHING)
def test_attack_is_its_formula_for_each_image(name):
    attack, (natural, labels), network = EVERYTHING[name], images(), Small()
    found = attack_of(name, network).perturb(natural, labels, generators(names="abc"))
    expected = attack.evaluations * attack.num_steps - attack.copies * attack.variance
    assert (network.passes, network.largest) == (expected, 3)
    for n, image_name in enumerate("abc"):
        by_hand = by_formula(
            attack, Small(), natural[n : n + 1], labels[n], generators(names=image_name), pool()
        )
        torch.testing.assert_close(found[n : n + 1], by_hand, atol=1e-9, rtol=0)


def test_passes_are_made_one_after_another():
    living = []

    class Alive(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            alive.append(1)
            living.append(len(alive))
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            alive.pop()
            return gradient

    class Counted(Small):
        def forward(self, x):
            return super().forward(Alive.apply(x) if x.requires_grad else x)

    alive = []
    attack_of("all", Counted()).perturb(*images())
    assert (len(living), set(living)) == (ALL.evaluations * 4 - 16, {1})


@pytest.mark.parametrize("name", ["all", "NI", "SI"])
def test_attacks_do_not_depend_on_those_before_them(name):
    natural, labels = images()
    attack = attack_of(name)
    first = attack.perturb(natural, labels)
    attack.perturb(1 - natural, labels.flip(0))
    assert torch.equal(attack.perturb(natural, labels), first)


@pytest.mark.parametrize("name", [*BASES, "all"])
def test_absent_labels_are_what_the_network_answers_to_the_image(name):
    natural, _ = images()
    attack = attack_of(name)
    known = attack.perturb(natural, Small()(natural).argmax(1))
    assert torch.equal(attack.perturb(natural), known)


@pytest.mark.parametrize("name", [*BASES, "all", "all, margin, from a random start"])
def test_logits_of_the_natural_images_are_those_of_no_other_pixels(name):
    attack, (natural, labels) = attack_of(name), images()
    batch = attack.batch(natural, labels)
    attack.run(batch)
    if name in ("NI", "SI", "VMI", "VNI", "SI without momentum", "VT without momentum"):
        torch.testing.assert_close(batch.logits, Small()(natural))
    else:
        assert batch.logits is None
