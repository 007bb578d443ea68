"""NI, SI, VMI, Admix, BSR and their combinations against their formulas in plain torch."""

from dataclasses import replace

import pytest
import torch
from bases import ALL, BASES, EVERYTHING, MI, SIZE, Small, images, pool
from quadratic import gaussian, generators
from test_host import NoHostReads

from suite.attack.attacker import Attacker
from suite.attack.in_front import InputDiversity
from suite.attack.losses import SummedLoss
from suite.attack.sources import Source
from suite.attack.transformations import BlockShuffle


def by_formula(attack, network, natural, labels, drawn, mixed):
    """Craft an image, 1 x 3 x H x W; all copies of one point are one batch."""
    (generator,) = drawn
    diversity, blocks = InputDiversity(attack.di_prob, attack.di_resize), BlockShuffle()
    diversity.generators = blocks.generators = drawn
    others = mixed.pixels[mixed.labels != labels] / 255
    up = -1 if attack.targeted else 1

    def uniform(*shape):
        return torch.rand(shape, dtype=torch.double, generator=generator)

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
                    copy = blocks(copy) if attack.block_shuffle else copy
                    copies.append(diversity(copy) if attack.di_prob else copy)
        loss = SummedLoss(attack.loss)(network(torch.cat(copies)), labels.expand(len(copies)))
        return torch.autograd.grad(loss / len(copies), x)[0]

    x, momentum, variance = natural, 0, 0
    if attack.rand_init:
        start = torch.rand(natural.shape[1:], generator=generator).double()
        x = (natural + (2 * start - 1) * attack.epsilon / 255).clamp(0, 1)
    for step in range(attack.num_steps):
        ahead = x + up * attack.nesterov * attack.step_size / 255 * attack.momentum * momentum
        new = gradient(ahead)
        g = new + variance
        g = (
            gaussian(g, attack.ti_kernel // 2 / 3, attack.ti_kernel // 2)
            if attack.ti_kernel > 1
            else g
        )
        momentum = attack.momentum * momentum + g / g.abs().mean()
        if attack.variance and step < attack.num_steps - 1:
            reach, near = attack.variance_bound * attack.epsilon / 255, 0
            for _ in range(attack.variance):
                noise = torch.empty_like(x).uniform_(-1, 1, generator=generator)
                near = near + gradient(x + reach * noise)
            variance = near / attack.variance - new
        x = x + up * attack.step_size / 255 * momentum.sign()
        x = x.clamp(natural - attack.epsilon / 255, natural + attack.epsilon / 255).clamp(0, 1)
    return x


@pytest.mark.parametrize("name", EVERYTHING)
def test_attack_is_its_formula_for_each_image(name):
    attack, (natural, labels), network = EVERYTHING[name], images(), Small()
    attacker = Attacker(attack, [Source(network)], pool())
    network.passes = network.largest = 0
    found = attacker(natural, labels, generators(names="abc"))
    start = attack.admix > 0 or attack.block_shuffle > 0  # whose first copy is not the image
    copies = attack.evaluations // (1 + attack.variance)
    expected = attack.evaluations * attack.num_steps - copies * attack.variance + start
    assert (network.passes, network.largest) == (expected, 3)
    for n, image_name in enumerate("abc"):
        by_hand = by_formula(
            attack, Small(), natural[n : n + 1], labels[n], generators(names=image_name), pool()
        )
        torch.testing.assert_close(found[n : n + 1], by_hand, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", [*BASES, "all"])
def test_sgm_and_both_kinds_of_ensembles_change_the_attack(name):
    attack, (natural, labels) = EVERYTHING[name], images()
    results = [
        Attacker(attack, [Source(Small(), 0.2)], pool()),
        Attacker(attack, [Source(Small())], pool()),
        Attacker(attack, [Source(Small()), Source(Small(1), 0.5)], pool()),
        Attacker(
            replace(attack, ensemble="gradients"), [Source(Small()), Source(Small(1))], pool()
        ),
    ]
    results = [attacker(natural, labels) for attacker in results]
    assert all((abs(r - natural) * 255).max() <= attack.epsilon + 1e-9 for r in results)
    assert not any(torch.equal(r, s) for n, r in enumerate(results) for s in results[:n])


def test_ensemble_of_gradients_is_normalised_in_each_pass():
    (natural, labels), networks = images(), [Small(), Small(1)]
    attack = replace(MI, scales=2, ensemble="gradients", num_steps=1, step_size=0)
    gradient = torch.zeros_like(natural)
    for network in networks:
        for i in range(2):
            x = natural.clone().div_(2**i).requires_grad_()
            (g,) = torch.autograd.grad(SummedLoss()(network(x), labels), x)
            gradient += g / g.abs().sum((1, 2, 3), keepdim=True) / 2**i
    attacker = Attacker(attack, [Source(network) for network in networks])
    found = attacker._steps.loss_fn._step(natural, labels)
    torch.testing.assert_close(found, gradient / gradient.abs().mean((1, 2, 3), keepdim=True))


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
    Attacker(ALL, [Source(Counted())], pool())(*images())
    assert (len(living), set(living)) == (ALL.evaluations * 4 - 16, {1})


@pytest.mark.parametrize("name", ["all", "NI", "SI"])
def test_attacks_do_not_depend_on_those_before_them(name):
    natural, labels = images()
    attacker = Attacker(EVERYTHING[name], [Source(Small())], pool())
    first = attacker(natural, labels)
    attacker(1 - natural, labels.flip(0))
    assert torch.equal(attacker(natural, labels), first)
    attacker.rehearse(natural)
    assert torch.equal(attacker(natural, labels), first)


@pytest.mark.parametrize("name", [*BASES, "all"])
def test_unknown_labels_are_what_the_network_answers_to_the_image(name):
    natural, _ = images()
    network = Small()
    answers = network(natural).argmax(1)
    attacker = Attacker(EVERYTHING[name], [Source(network)], pool())
    known = attacker(natural, answers)
    torch.testing.assert_close(attacker.logits, network(natural)) if name != "all" else None
    assert torch.equal(attacker(natural, torch.full((3,), -1)), known)


def test_rehearsal_makes_a_pass_of_each_kind():
    network = Small()
    attacker = Attacker(
        replace(ALL, block_shuffle=20, variance=20, scales=5), [Source(network)], pool()
    )
    network.passes = 0
    attacker.rehearse(torch.zeros(5, 3, SIZE, SIZE).double())
    assert (network.passes, network.largest) == (1 + 4 * 3, 5)


@pytest.mark.parametrize("attack", [ALL, replace(ALL, targeted=True, loss="margin")])
def test_steps_read_nothing_from_the_device(attack):
    sources = [Source(Small()), Source(Small(1), 0.5)]
    attacker = Attacker(replace(attack, ensemble="gradients"), sources, pool())
    natural, labels = images()
    with NoHostReads():
        attacker(natural, labels, classes=torch.tensor([-1, 0, 1]))


def test_gradients_that_are_tiny_or_zero_count_as_others():
    """advertorch divides by a norm of 1e-6 at least, which late gradients are below."""
    natural, labels = images()
    results = []
    for scale in (1, 1e-12, 0):
        network = Small()
        network.head.weight *= scale
        attacker = Attacker(replace(MI, nesterov=True, loss="logit"), [Source(network)])
        results.append(attacker(natural, labels))
    torch.testing.assert_close(results[1], results[0])
    assert torch.equal(results[2], natural)
