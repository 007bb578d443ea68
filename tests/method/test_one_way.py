"""scripts/one_way.py: gradients that take one way at the last residual additions."""

import itertools

import pytest
import torch
from blocks import JOINS, PLUS, Net, classifier
from conftest import input_gradient
from one_way import OneWay
from torch import nn

from utils_sgm import register_hook_for_branches


class Products(nn.Module):
    """Logits (c * x, 0), c being the product of 1 + w of three residual modules w * z."""

    input_size = 1
    weights = (3.0, 5.0, 7.0)

    def __init__(self):
        super().__init__()
        self.scale = nn.Identity()

    def forward(self, pixels):
        for weight in self.weights:
            pixels = pixels + self.scale(weight * pixels)
        total = pixels.flatten(1).sum(1)
        return torch.stack([total, torch.zeros_like(total)], 1)


@pytest.mark.parametrize(
    "ways", [*itertools.product(("skip", "residual", "both"), repeat=3), ("skip",)]
)
def test_gradient_is_the_product_of_the_ways(ways):
    pixels = torch.rand(2, 3, 1, 1, requires_grad=True)
    logits = OneWay(Products().eval(), ways)(pixels)
    logits.sum().backward()
    expected = 1.0
    # Fewer ways than junctions are those of the last ones.
    for way, weight in zip(["both"] * (3 - len(ways)) + [*ways], Products.weights, strict=True):
        expected *= {"skip": 1, "residual": weight, "both": 1 + weight}[way]
    assert torch.equal(pixels.grad, torch.full_like(pixels, expected))
    assert torch.equal(logits, Products()(pixels))


def twice(net, z, join):
    """A residual branch that is scaled outside of any module, in a block that runs twice."""
    for _ in range(2):
        z = torch.relu(join(z, net.gamma * net.f(z)))
    return z


def networks(*joins):
    """Return networks that have the same weights."""
    made = [classifier(Net(twice, join)).requires_grad_(False) for join in joins]
    for network in made:
        network.load_state_dict(made[0].state_dict())
        network.input_size = 6
    return made


def add_by_a_statement(skip, branch):
    branch.add_(skip)
    return branch


DETACHED = {
    "skip": lambda join: lambda z, f: join(z, f.detach()),
    "residual": lambda join: lambda z, f: join(z.detach(), f),
}


@pytest.mark.parametrize("join", [*JOINS.values(), add_by_a_statement])
@pytest.mark.parametrize("way", DETACHED)
def test_gradient_is_that_of_a_network_which_detaches(way, join):
    plain, oracle = networks(join, DETACHED[way](join))
    pixels = torch.rand(2, 3, 6, 6, dtype=torch.double)
    expected = input_gradient(oracle, pixels)
    assert not torch.allclose(input_gradient(plain, pixels), expected)
    torch.testing.assert_close(input_gradient(OneWay(plain, [way] * 2), pixels), expected)


def test_skip_connection_alone_is_gamma_0_of_the_branches():
    plain, scaled = networks(PLUS, PLUS)
    register_hook_for_branches(scaled, 0, (3, 6, 6), branches=r"1\.f")
    pixels = torch.rand(2, 3, 6, 6, dtype=torch.double)
    expected = input_gradient(scaled, pixels)
    torch.testing.assert_close(input_gradient(OneWay(plain, ["skip"] * 2), pixels), expected)


def test_dense_connections_are_refused():
    class Dense(Products):
        def forward(self, z):
            z = torch.cat([z, self.scale(2 * z)], 1)
            return torch.cat([z, self.scale(3 * z)], 1).mean((2, 3))

    with pytest.raises(ValueError, match="0 residual additions.*3 are needed .dense connections"):
        OneWay(Dense().eval(), ["skip"] * 3)


def test_network_that_adds_otherwise_than_before_is_refused():
    class Fickle(Products):
        def forward(self, pixels):
            return super().forward(pixels + pixels * 2 if pixels.shape[0] > 1 else pixels)

    network = OneWay(Fickle().eval(), ["skip"])
    with pytest.raises(ValueError, match="4 additions in one pass and 3 in another"):
        network(torch.rand(2, 3, 1, 1, requires_grad=True))
