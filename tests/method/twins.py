"""A network with the names of torchvision's ResNets; autograd scales its twins' branches."""

import torch
from blocks import GAMMA, conv, scaled
from torch import nn
from torch.utils.checkpoint import checkpoint

from utils_sgm import register_sgm

PIXELS = torch.rand(2, 4, 6, 6, dtype=torch.double, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([1, 3])


def same(z):
    return z


class Block(nn.Module):
    """A residual block as torchvision's, and where autograd itself scales gradients in a twin."""

    def __init__(self, after_branch, after_relu):
        super().__init__()
        self.conv1, self.conv2, self.relu = conv(), conv(), nn.ReLU(inplace=True)
        self.after_branch, self.after = after_branch, after_relu

    def forward(self, z):
        out = self.after_branch(self.conv2(self.after(self.relu(self.conv1(z)))))
        out = out + z
        return self.after(self.relu(out))


class Small(nn.Module):
    """A network with the names of torchvision's ResNets; of its blocks, layer1.0 is left out."""

    def __init__(self, after_branch=same, after_relu=same):
        super().__init__()
        self.conv, self.relu, self.after = conv(), nn.ReLU(), after_relu
        blocks = Block(after_branch, same), Block(after_branch, after_relu)
        self.layer1, self.fc = nn.Sequential(*blocks), nn.Linear(144, 5)
        self.reentrant = None

    def forward(self, pixels):
        z = self.after(self.relu(self.conv(pixels)))
        if self.reentrant is None:
            z = self.layer1(z)
        else:
            z = checkpoint(self.layer1, z, use_reentrant=self.reentrant)
        return self.fc(z.flatten(1))


def small() -> nn.Module:
    torch.manual_seed(0)
    return Small().double().eval()


def twin(kind: str) -> nn.Module:
    torch.manual_seed(0)
    where = {"branch": {"after_branch": scaled}, "relu": {"after_relu": scaled}}[kind]
    return Small(**where).double().eval()


def register(network: nn.Module, kind: str) -> list:
    return register_sgm(network, "resnet18", GAMMA, kind, (4, 6, 6))


def loss(network, pixels, labels=LABELS):
    return nn.functional.cross_entropy(network(pixels), labels, reduction="sum")


def image_loss(network):
    return lambda pixels, label: loss(network, pixels[None], label[None])


def by_autograd(function, pixels=PIXELS):
    pixels = pixels.clone().requires_grad_()
    return torch.autograd.grad(function(pixels), pixels)[0]


def gradient(network):
    return by_autograd(lambda pixels: loss(network, pixels))


def by_backward(network, pixels=PIXELS):
    pixels = pixels.clone().requires_grad_()
    loss(network, pixels).backward()
    return pixels.grad


def assert_same(kind, ours, expected):
    """The released hooks divide by standard deviations, so that only the directions are equal."""
    if kind == "relu":
        ours, expected = (nn.functional.normalize(g.flatten(1)) for g in (ours, expected))
    torch.testing.assert_close(ours, expected)
