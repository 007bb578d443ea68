"""register_sgm on networks that people bring along: what they return, and what they take."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from utils_sgm import register_sgm

OUTPUTS = {
    "tensor": lambda logits: logits,
    "tuple": lambda logits: (logits, "weights"),
    "dict": lambda logits: {"loss": None, "logits": logits},
    "object": lambda logits: SimpleNamespace(logits=logits),
    "nested": lambda logits: ({"logits": logits},),
}


class OwnNetwork(nn.Module):
    """x + f(x) on flat features, so that the size of the images is fixed; any kind of output."""

    def __init__(self, side: int = 8, output: str = "tensor"):
        super().__init__()
        torch.manual_seed(0)
        self.branch = nn.Sequential(nn.Linear(3 * side**2, 3 * side**2), nn.Tanh())
        self.head = nn.Linear(3 * side**2, 4)
        self.output = OUTPUTS[output]

    def forward(self, pixels):
        features = pixels.flatten(1)
        return self.output(self.head(features + self.branch(features)))


def gradient(network: OwnNetwork, pixels: torch.Tensor) -> torch.Tensor:
    leaf = pixels.clone().requires_grad_()
    features = leaf.flatten(1)
    network.head(features + network.branch(features)).sum().backward()
    return leaf.grad


@pytest.mark.parametrize("output", OUTPUTS)
def test_sgm_takes_what_a_network_returns(output):
    network = OwnNetwork(output=output)
    pixels = torch.rand(2, 3, 8, 8)
    # The paper's formula: the gradient of skip + 0.25 * that of the branch.
    skip = network.head.weight.sum(0).expand(2, -1).view_as(pixels)
    expected = skip + 0.25 * (gradient(network, pixels) - skip)
    handles = register_sgm(network, gamma=0.25, input_size=(3, 8, 8))
    assert len(handles) == 1
    torch.testing.assert_close(gradient(network, pixels), expected)


def test_an_example_batch_stands_for_the_input_size():
    network = OwnNetwork()
    example = torch.rand(5, 3, 8, 8)
    kept = example.clone()
    assert len(register_sgm(network, gamma=0.5, example=example)) == 1
    assert example.equal(kept)
    assert not example.requires_grad


def test_a_network_that_takes_another_size_says_what_to_pass():
    with pytest.raises(ValueError, match=r"1x3x224x224.*input_size.*example") as raised:
        register_sgm(OwnNetwork(), gamma=0.5)
    assert "mat1 and mat2" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_network_without_logits_says_what_it_returns():
    network = OwnNetwork()
    network.output = lambda logits: {"scores": logits}
    with pytest.raises(ValueError, match="returns a dict.*logits"):
        register_sgm(network, gamma=0.5, input_size=(3, 8, 8))
