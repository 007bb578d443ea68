"""The loop: its steps against closed forms, formulas in plain torch, and other libraries."""

import pytest
import torch
from bases import (
    BASES,
    EVERYTHING,
    Quadratic,
    Small,
    attack_of,
    gaussian,
    generators,
    images,
    perturbed,
    pool,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from suite.attack.loop import GradientAttack
from suite.attack.losses import LOSS_FUNCTIONS
from suite.attack.settings import Attack
from suite.attack.transformations import input_diversity, shuffle_blocks
from suite.images.pictures import to_float, to_uint8


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


class Faint(Quadratic):
    """In every other pass the gradient is 1e-9 times its size, in which MI's norm has no floor."""

    def forward(self, x):
        return super().forward(x) * (1e-9 if len(self.seen) % 2 else 1)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Quadratic, {"num_steps": 1, "step_size": 16}),  # FGSM
        (Quadratic, {"epsilon": 200, "step_size": 40}),
        (Quadratic, {"epsilon": 200, "step_size": 40, "ti_kernel": 5, "ti_sigma": 2}),
        (Faint, {"loss": "logit"}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_momentum_accumulates_gradients_of_norm_1(kind, settings, dtype):
    """g = momentum * g + gradient / |gradient|_1; TI's convolution comes before the norm."""
    attack = Attack(**{"epsilon": 16, "step_size": 6, "num_steps": 6, "momentum": 0.8} | settings)
    network, pixels = kind(8).to(dtype), torch.rand(1, 3, 8, 8, dtype=dtype) * 0.5 + 0.001
    network.weights = network.weights.to(dtype)
    result = GradientAttack(attack, [network]).perturb(pixels, torch.tensor([0]))
    x, g, ball = pixels.clone(), torch.zeros_like(pixels), attack.epsilon / 255
    for seen in network.seen:
        torch.testing.assert_close(seen, x)
        gradient = network.direction(x)
        if attack.ti_kernel > 1:
            gradient = gaussian(gradient, 2 / 2, 2)
        g = 0.8 * g + gradient / gradient.abs().sum()
        x = x + attack.step_size / 255 * g.sign()
        x = x.clamp(pixels - ball, pixels + ball).clamp(0, 1)
    torch.testing.assert_close(result, x)
    assert len(network.seen) == attack.num_steps


@pytest.mark.parametrize("settings", [{}, {"nesterov": True}])
def test_tiny_gradients_give_the_same_attack_and_zero_ones_none(settings):
    natural, labels = images()
    results = []
    for scale in (1, 1e-12, 0):
        network = Small()
        network.head.weight *= scale
        attack = {"epsilon": 24, "step_size": 6, "num_steps": 4, "momentum": 0.8, "loss": "logit"}
        results.append(perturbed(network, natural, labels, **attack | settings))
    torch.testing.assert_close(results[1], results[0])
    assert torch.equal(results[2], natural)


@pytest.mark.parametrize("name", ["SI without momentum", "NI"])
def test_gradient_that_is_no_number_shows_in_its_image_alone(name):
    factors = torch.tensor([1, torch.nan, 1])[:, None, None, None]

    class Broken(Small):
        def forward(self, x):
            if x.requires_grad:
                x.register_hook(lambda grad: grad * factors)
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


def test_random_start_is_uniform_in_the_ball_and_stays_in_it():
    natural, labels = torch.rand(3, 3, 64, 64), torch.zeros(3).long()

    def start(which=slice(None), seed=0):
        drawn = generators("abc"[which], seed)
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
    attack |= {"epsilon": epsilon, "step_size": step, "num_steps": steps}
    result = perturbed(linear, to_float(natural), torch.tensor([0, 1]), **attack)
    saved = to_uint8(result, natural, epsilon)
    assert saved.dtype == torch.uint8
    assert abs(saved.int() - natural.int()).max() <= epsilon


def by_formula(attack, network, natural, labels, drawn, mixed):
    """Craft an image, 1 x 3 x H x W; all copies of one point are one batch."""
    (generator,) = drawn
    others = mixed.pixels[mixed.labels != labels] / 255
    up = -1 if attack.targeted else 1

    def noise_like(x):
        return torch.empty_like(x).uniform_(-1, 1, generator=generator)

    def gradient(x):
        x = x.detach().requires_grad_()
        copies = []
        for _ in range(attack.admix or 1):
            other = 0
            if attack.admix:
                draw = torch.rand(1, dtype=torch.double, generator=generator)
                other = attack.admix_ratio * others[int(draw * len(others))]
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
            reach = attack.variance_bound * attack.epsilon / 255
            near = sum(gradient(x + reach * noise_like(x)) for _ in range(attack.variance))
            variance = near / attack.variance - new
        x = x + up * attack.step_size / 255 * momentum.sign()
        x = x.clamp(natural - attack.epsilon / 255, natural + attack.epsilon / 255).clamp(0, 1)
    return x


@pytest.mark.parametrize("name", EVERYTHING)
def test_attack_is_its_formula_for_each_image(name):
    attack, (natural, labels) = EVERYTHING[name], images()
    network = Small(gamma=0.5)
    found = attack_of(name, network).perturb(natural, labels, generators())
    expected = attack.evaluations * attack.num_steps - attack.copies * attack.variance
    assert (network.passes, network.largest) == (expected, 3)
    for n, image_name in enumerate("abc"):
        one = natural[n : n + 1], labels[n], generators(image_name)
        by_hand = by_formula(attack, network, *one, pool())
        torch.testing.assert_close(found[n : n + 1], by_hand, atol=1e-9, rtol=0)


def test_passes_are_made_one_after_another():
    alive, living = [], []

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

    attack_of("all", Counted()).perturb(*images())
    assert (len(living), set(living)) == (24 * 4 - 16, {1})


@pytest.mark.parametrize("name", [*BASES, "all"])
def test_attacks_depend_on_none_before_them_and_labels_are_the_network_s_answers(name):
    natural, _ = images()
    attack, answers = attack_of(name), Small()(natural).argmax(1)
    known = attack.perturb(natural, answers)
    attack.perturb(1 - natural, answers.flip(0))
    assert torch.equal(attack.perturb(natural, answers), known)
    assert torch.equal(attack.perturb(natural), known)
    assert torch.equal(natural, images()[0])


@pytest.mark.parametrize("name", [*BASES, "all", "all, margin, from a random start"])
def test_logits_of_the_natural_images_are_those_of_no_other_pixels(name):
    attack, (natural, labels) = attack_of(name), images()
    batch = attack.batch(natural, labels)
    attack.run(batch)
    if name in ("NI", "SI", "VMI", "VNI", "SI without momentum", "VT without momentum"):
        torch.testing.assert_close(batch.logits, Small()(natural))
    else:
        assert batch.logits is None
