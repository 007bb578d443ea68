"""Ensembles of sources, by their logits or by their gradients."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LogitEnsemble(nn.Module):
    """The average of several networks' logits (Dong et al., CVPR 2018, section 3.3)."""

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, pixels: Tensor) -> Tensor:
        return average_logits([network(pixels) for network in self.networks])


def average_logits(logits: Sequence[Tensor]) -> Tensor:
    """Return the average of several networks' logits, each N x classes.

    Raises:
        ValueError: the networks have different numbers of classes.
    """
    numbers = {each.shape[1] for each in logits}
    if len(numbers) > 1:
        raise ValueError(f"an ensemble of networks with {numbers} classes: they must agree")
    return torch.stack(tuple(logits)).mean(0)


def with_unit_gradient(pixels: Tensor) -> Tensor:
    """Return pixels, N x 3 x H x W, whose gradient is divided by its L1 norm, image by image.

    With such pixels, the networks of an ensemble count equally when their gradients are added.
    """
    if pixels.requires_grad:
        pixels = pixels.clone()
        pixels.register_hook(_normalised)
    return pixels


def _normalised(gradient: Tensor) -> Tensor:
    norm = gradient.abs().sum((1, 2, 3), keepdim=True)
    return gradient / torch.where(norm > 0, norm, 1)
