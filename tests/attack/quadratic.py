"""A network whose gradient is known, and what else tests of attacks share."""

import scipy.ndimage
import torch
from torch import nn

from suite.attack.loop import GradientAttack
from suite.attack.settings import Attack
from suite.running.random_numbers import image_generators


def generators(seed=0, names="abc"):
    return image_generators(seed, names)


def perturbed(networks, natural, labels, drawn=None, **settings):
    """Attack a network, or a list of them as an ensemble."""
    networks = networks if isinstance(networks, list) else [networks]
    return GradientAttack(Attack(**settings), networks).perturb(natural, labels, drawn)


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


def gaussian(gradient, sigma, radius):
    array = scipy.ndimage.gaussian_filter(
        gradient.numpy(), (0, 0, sigma, sigma), mode="constant", radius=(0, 0, radius, radius)
    )
    return torch.from_numpy(array)
