"""Attacks, and the networks and images that they are tried on."""

from dataclasses import replace

import scipy.ndimage
import torch
from torch import nn

from suite.attack.loop import GradientAttack
from suite.attack.pool import Pool
from suite.attack.settings import Attack
from suite.running.random_numbers import image_generators
from utils_sgm import register_sgm

SIZE, CLASSES = 6, 4
MI = Attack(24, 6, num_steps=4, momentum=0.8)
BASES = {
    "NI": replace(MI, nesterov=True),
    "SI": replace(MI, scales=3),
    "VMI": replace(MI, variance=3),
    "VNI": replace(MI, variance=2, nesterov=True, variance_bound=0.7),
    "Admix": replace(MI, admix=2, scales=2, admix_ratio=0.3),
    "BSR": replace(MI, block_shuffle=3),
    "SI without momentum": replace(MI, momentum=0, scales=3),
    "VT without momentum": replace(MI, momentum=0, variance=2),
}
ALL = replace(
    MI, nesterov=True, variance=2, scales=2, admix=2, block_shuffle=2, ti_kernel=3, di_prob=0.5
)
EVERYTHING = BASES | {
    "all": ALL,
    "all, targeted": replace(ALL, targeted=True, loss="logit"),
    "all, margin, from a random start": replace(ALL, loss="margin", rand_init=True),
    "NI, targeted": replace(MI, nesterov=True, targeted=True),
    "PGD+DI from a random start": replace(MI, momentum=0, di_prob=0.5, rand_init=True),
}


class Small(nn.Module):
    """A residual network whose gradient changes as its input moves; notes its largest batch."""

    input_size, passes, largest = SIZE, 0, 0

    def __init__(self, seed=0, gamma=1):
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.head = nn.Linear(3 * SIZE**2, 16), nn.Linear(16, CLASSES)
        self.branch = nn.Linear(16, 16)
        self.double().eval().requires_grad_(False)
        register_sgm(self, "", gamma, input_size=(3, SIZE, SIZE))
        self.passes = 0  # one is watched where gamma is below 1

    def forward(self, x):
        self.passes, self.largest = self.passes + 1, max(self.largest, len(x))
        hidden = self.stem(4 * x.flatten(1).to(self.stem.weight)).tanh()
        return self.head(hidden + self.branch(hidden).tanh())


def images():
    torch.manual_seed(0)
    return torch.rand(3, 3, SIZE, SIZE, dtype=torch.double), torch.tensor([0, 3, 1])


def pool():
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (9, 3, SIZE, SIZE), dtype=torch.uint8)
    return Pool(pixels, torch.arange(9) % CLASSES)


def generators(names="abc", seed=0):
    return image_generators(seed, names)


def attack_of(name, *networks):
    return GradientAttack(EVERYTHING[name], networks or [Small()], pool())


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
