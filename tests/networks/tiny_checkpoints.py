"""A network whose checkpoints take no time, and how a checkpoint is loaded into one."""

import collections

import numpy as np
import pytest
import torch
from torch import nn

from suite.networks import checkpoints
from suite.networks.libraries import NetworkSpec

PIXELS = torch.rand(2, 3, 8, 8)


class Pickled:
    """A pickle that calls a function with arguments when it is read, and may set a state."""

    def __init__(self, function, args, *state):
        self.reduced = function, args, *state

    def __reduce__(self):
        return self.reduced


def build(classes=5):
    layers = collections.OrderedDict(
        features=nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)),
        pool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
        fc=nn.Linear(4, classes),
    )
    return nn.Sequential(layers).eval()


@pytest.fixture
def network():
    return build()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "own.pth"


def prefixed(network, prefix):
    return {f"{prefix}{key}": tensor for key, tensor in network.state_dict().items()}


def damaged(whole, number, truncate=False):
    """Yield a file's bytes with three of them changed, and perhaps the end cut off."""
    generator = np.random.default_rng(0)
    for _ in range(number):
        content = bytearray(whole)
        for place in generator.integers(len(content), size=3):
            content[place] = generator.integers(256)
        yield content[: generator.integers(1, len(content) + 1)] if truncate else content


def loaded(file, make=build):
    spec = NetworkSpec(lambda *_: make(), (3, 8, 8), (0.0,) * 3, (1.0,) * 3, None)
    return checkpoints.load_checkpoint(spec, file)[0]


def assert_loaded(file, network, make=build):
    torch.testing.assert_close(loaded(file, make)(PIXELS), network(PIXELS))
