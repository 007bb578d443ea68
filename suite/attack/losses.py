"""Losses, summed over the batch: an image's gradient does not depend on its batch."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def cross_entropy_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of logits, N x classes, with N class indices."""
    return cross_entropy(logits, labels, reduction="sum")


def logit_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the labels' logits, negated (Zhao et al., NeurIPS 2021, section 3)."""
    return -logits.gather(1, labels[:, None]).sum()


def margin_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the largest other logit less the label's.

    That is f_6 of Carlini and Wagner (S&P 2017, section V) without its bound.
    """
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return others.sum() + logit_loss(logits, labels)


# By their names in `settings.LOSSES`.
LOSS_FUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": cross_entropy_loss,
    "logit": logit_loss,
    "margin": margin_loss,
}
