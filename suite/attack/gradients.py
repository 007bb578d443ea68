"""Gradients that take more than one pass, as those of NI, SI, VMI, Admix and BSR."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from suite.attack.in_front import TranslationInvariance
from suite.attack.losses import SummedLoss
from suite.attack.settings import Attack
from suite.attack.transformations import Admix
from suite.running import random_numbers


class GradientLoss:
    """Stands for the loss in advertorch's loops, and has a gradient of our own making.

    Where x are the pixels, a the step size, m the momentum and g_t the gradient of step t:

        NI (Lin et al., ICLR 2020, section 3): at x + a * decay * m instead of x
        SI (the same): the average of those at x / 2 ** i
        VMI (Wang and He, CVPR 2021, algorithm 1): g_t + v, where v is the average gradient at the
            neighbours of the pixels of step t - 1, less g_{t-1}
        Admix, BSR: the averages over their copies
        EOT (Athalye et al., ICML 2018, section 4.2): the average over draws of what is random

    The passes are made one after another, whose memory is that of one. The momentum is the one of
    advertorch's loop, in the unit of the authors' code: gradients are divided by their average
    absolute value, since a norm of 1 would make NI's way ahead vanish.

    Args:
        attack: the settings.
        loss: of logits and labels.
        model: what is passed through, with what is random in front: pixels to logits.
        plain: the same without, for the answer to the pixels where the attack starts.
        admix: what to mix in, if anything.
        smoothing: TI; the gradient is smoothed once, which is the same as in each pass.

    Attributes:
        generators: of the images of the current batch, set before the attack on it.
        classes: of the images of the current batch, set likewise; None if they are the labels.
    """

    def __init__(
        self,
        attack: Attack,
        loss: SummedLoss,
        model: nn.Module,
        plain: nn.Module,
        admix: Admix | None = None,
        smoothing: TranslationInvariance | None = None,
    ):
        self.attack = attack
        self.loss = loss
        self.model = model
        self.plain = plain
        self.admix = admix
        self.smoothing = smoothing
        self.generators: Sequence[torch.Generator] = ()
        self.classes: Tensor | None = None
        self.begin()

    @property
    def first(self) -> Tensor | None:
        """The logits where the attack starts, N x classes."""
        return self.loss.first

    def begin(self) -> None:
        """Forget the attack before."""
        self.loss.begin()
        self._momentum: Tensor | float = 0
        self._before: tuple[Tensor, Tensor] | None = None

    def __call__(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return a number whose gradient at the pixels, N x 3 x H x W, is that of the attack."""
        gradient = self._step(pixels.detach(), labels)
        return (pixels * gradient).sum()

    def _step(self, pixels: Tensor, labels: Tensor) -> Tensor:
        attack = self.attack
        if self.loss.first is None and (attack.admix or attack.block_shuffle):
            with torch.no_grad():
                self.loss.note(self.plain(pixels))
        # Only now, since after the last step it would be for nothing.
        variance = self._variance(labels) if attack.variance and self._before else 0
        uphill = -1 if attack.targeted else 1
        ahead = uphill * attack.momentum * attack.step_size / 255 if attack.nesterov else 0
        gradient = self._average(pixels + ahead * self._momentum, labels)
        if attack.variance:
            self._before = pixels, gradient
        gradient = gradient + variance
        if self.smoothing is not None:
            gradient = self.smoothing.convolved(gradient)
        size = gradient.abs().mean((1, 2, 3), keepdim=True)
        gradient = gradient / torch.where(size > 0, size, 1)
        if attack.nesterov:
            self._momentum = attack.momentum * self._momentum + gradient
        return gradient

    def _variance(self, labels: Tensor) -> Tensor:
        pixels, gradient = self._before
        reach = self.attack.variance_bound * self.attack.epsilon / 255
        total = torch.zeros_like(pixels)
        for _ in range(self.attack.variance):
            noise = random_numbers.uniform_noise(pixels, self.generators)
            total += self._average(noise.mul_(reach).add_(pixels), labels)
        return total / self.attack.variance - gradient

    def _average(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """Return the average gradient of the copies; a gradient of an image is of it alone."""
        attack = self.attack
        leaf = pixels.detach().requires_grad_()
        for _ in range(max(1, attack.admix) * attack.eot):
            other = self.admix(self._known(labels)) if attack.admix else 0
            for _ in range(max(1, attack.block_shuffle)):
                for power in range(attack.scales):
                    # .grad adds them up; torch.autograd.grad would not pass re-entrant checkpoints.
                    self.loss(self.model((leaf + other) / 2**power), labels).backward()
        return leaf.grad / (attack.evaluations // (1 + attack.variance))

    def _known(self, labels: Tensor) -> Tensor:
        return self.loss.known(labels if self.classes is None else self.classes)
