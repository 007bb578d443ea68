"""Attacks with more passes a step, and what they are tried on."""

from dataclasses import replace

import torch
from torch import nn

from suite.attack.pool import Pool
from suite.attack.settings import Attack

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
}


class Small(nn.Module):
    """A residual network whose gradient changes as its input moves; notes its largest batch."""

    input_size = SIZE

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.head = nn.Linear(3 * SIZE**2, 16), nn.Linear(16, CLASSES)
        self.branch = nn.Linear(16, 16)
        self.passes, self.largest = 0, 0
        self.double().eval().requires_grad_(False)

    def forward(self, x):
        self.passes, self.largest = self.passes + 1, max(self.largest, len(x))
        hidden = self.stem(4 * x.flatten(1).to(self.stem.weight)).tanh()
        return self.head(hidden + self.branch(hidden).tanh())


def images(seed=0):
    torch.manual_seed(seed)
    return torch.rand(3, 3, SIZE, SIZE, dtype=torch.double), torch.tensor([0, 3, 1])


def pool():
    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (9, 3, SIZE, SIZE), dtype=torch.uint8)
    return Pool(pixels, torch.arange(9) % CLASSES)
