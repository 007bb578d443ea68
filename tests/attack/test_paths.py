"""The gradient one way only at some junctions: by closed form, and by autograd's own detach()."""

import itertools

import pytest
import torch
from conftest import input_gradient
from suite.SCRIPT import OneWay
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


@pytest.mark.parametrize("ways", list(itertools.product(("skip", "residual", "both"), repeat=3)))
def test_gradient_is_the_product_of_the_ways(ways):
    network = OneWay(Products().eval(), ways)
    pixels = torch.rand(2, 3, 1, 1, requires_grad=True)
    logits = network(pixels)
    logits.sum().backward()
    expected = 1.0
    for way, weight in zip(ways, Products.weights, strict=True):
        expected *= {"skip": 1, "residual": weight, "both": 1 + weight}[way]
    assert torch.equal(pixels.grad, torch.full_like(pixels, expected))
    assert torch.equal(logits, Products()(pixels))


def test_fewer_ways_than_junctions_are_of_the_last_ones():
    pixels = torch.rand(1, 3, 1, 1, requires_grad=True)
    OneWay(Products().eval(), ["skip"])(pixels).sum().backward()
    assert torch.equal(pixels.grad, torch.full_like(pixels, 4 * 6 * 1))


class Block(nn.Module):
    """A residual module that is scaled outside modules, and runs twice."""

    def __init__(self, join):
        super().__init__()
        self.join = join
        self.f = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.gamma = nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, z):
        for _ in range(2):
            z = torch.relu(self.join(z, self.gamma * self.f(z)))
        return z


def classifier(join):
    torch.manual_seed(0)
    stem, head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(144, 5)
    network = nn.Sequential(stem, Block(join), nn.Flatten(), head)
    network.input_size = 6
    return network.double().eval().requires_grad_(False)


def add_in_place(skip, branch):
    branch += skip
    return branch


def add_by_a_statement(skip, branch):
    branch.add_(skip)
    return branch


TWINS = {"skip": lambda z, f: z + f.detach(), "residual": lambda z, f: z.detach() + f}
JOINS = [
    lambda z, f: z + f,
    lambda z, f: f + z,
    lambda z, f: torch.add(z, other=f),
    add_in_place,
    add_by_a_statement,
]


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("way", TWINS)
def test_gradient_is_that_of_a_network_which_detaches(way, join):
    plain, oracle = classifier(join), classifier(TWINS[way])
    pixels = torch.rand(2, 3, 6, 6, dtype=torch.double)
    expected = input_gradient(oracle, pixels)
    assert not torch.allclose(input_gradient(plain, pixels), expected)
    torch.testing.assert_close(input_gradient(OneWay(plain, [way] * 2), pixels), expected)


def test_skip_connection_alone_is_gamma_0_of_the_branches():
    plain, scaled = classifier(JOINS[0]), classifier(JOINS[0])
    register_hook_for_branches(scaled, 0, (3, 6, 6), branches=r"1\.f")
    pixels = torch.rand(2, 3, 6, 6, dtype=torch.double)
    expected = input_gradient(scaled, pixels)
    torch.testing.assert_close(input_gradient(OneWay(plain, ["skip"] * 2), pixels), expected)


class Dense(nn.Module):
    input_size = 6

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 2, 1), nn.Conv2d(5, 2, 1)

    def forward(self, z):
        z = torch.cat([z, self.first(z)], 1)
        return torch.cat([z, self.second(z)], 1).mean((2, 3))


def test_dense_connections_are_refused():
    with pytest.raises(ValueError, match="0 residual additions.*3 are needed .dense connections"):
        OneWay(Dense().eval().requires_grad_(False), ["skip"] * 3)


def test_network_that_adds_otherwise_than_before_is_refused():
    class Fickle(Products):
        def forward(self, pixels):
            return super().forward(pixels + pixels * 2 if pixels.shape[0] > 1 else pixels)

    network = OneWay(Fickle().eval(), ["skip"])
    with pytest.raises(ValueError, match="4 additions in one pass and 3 in another"):
        network(torch.rand(2, 3, 1, 1, requires_grad=True))
