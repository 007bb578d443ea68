"""What an attack makes larger, or smaller if it is targeted."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits, labels, reduction="sum")


def _logit(logits: Tensor, labels: Tensor) -> Tensor:
    return -logits.gather(1, labels[:, None]).sum()


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    return others.sum() + _logit(logits, labels)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": _cross_entropy,
    "logit": _logit,
    "margin": _margin,
}


class SummedLoss:
    """A loss of logits and labels, summed: an image's gradient does not depend on its batch.

    "cross-entropy"; "logit", the label's logit with its sign turned (Zhao et al., NeurIPS 2021,
    section 3); "margin", the largest other logit less the label's, as Carlini and Wagner's f_6
    (S&P 2017, section V) without its bound. A label of -1 is what the first logits say.

    Attributes:
        first: the logits of the attack's first pass, N x classes; an average over networks.

    Raises:
        ValueError: no such loss.
    """

    def __init__(self, kind: str = "cross-entropy"):
        if kind not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not {kind!r}")
        self._loss = LOSSES[kind]
        self.first: Tensor | None = None

    def begin(self) -> None:
        """Forget the attack before."""
        self.first = None

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.first is None:
            self.note(logits)
        labels = self.known(labels)
        if logits.dim() == 3:  # each network of an ensemble has a loss of its own
            labels = labels[:, None].expand(logits.shape[:2]).flatten()
        return self._loss(logits.flatten(0, -2), labels)

    def note(self, logits: Tensor) -> None:
        """Take logits, N x classes or N x networks x classes, for those of the first pass."""
        self.first = logits.detach().mean(1) if logits.dim() == 3 else logits.detach()

    def known(self, labels: Tensor) -> Tensor:
        """Return labels, N, with the first pass's answers where they are -1."""
        return torch.where(labels < 0, self.first.argmax(1), labels)
