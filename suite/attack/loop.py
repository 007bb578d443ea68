"""The attack: in each step the gradient, the momentum, its sign, and the projection.

SGM does not show here: its hooks, `utils_sgm.register_sgm`, are on the networks.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suite.attack.advertorch_base import AdvertorchAttack
from suite.attack.ensembles import LogitEnsemble, average_logits, with_unit_gradient
from suite.attack.losses import LOSS_FUNCTIONS
from suite.attack.pool import Pool
from suite.attack.settings import Attack
from suite.attack.transformations import (
    admixed,
    gaussian_kernel,
    input_diversity,
    shuffle_blocks,
    smoothed,
)
from suite.defences.defended import for_batch, is_random
from suite.running.devices import to_device
from suite.running.random_numbers import image_generators, uniform_noise

logger = logging.getLogger(__name__)


@dataclass
class Batch:
    """What belongs to the attack on one batch of images.

    Attributes:
        natural: float pixels in [0, 1], N x 3 x H x W.
        labels: N class indices: the true ones, or the target classes of a targeted attack.
        generators: per-image generators of random numbers.
        classes: N class indices, the true ones: Admix mixes in images of other classes alone.
        networks: the sources, whose random defences draw from the generators.
        logits: the sources' average logits on the natural images, N x classes; None until a pass
            has given them.
    """

    natural: Tensor
    labels: Tensor
    generators: Sequence[torch.Generator]
    classes: Tensor
    networks: Sequence[nn.Module]
    logits: Tensor | None = None


class GradientAttack(AdvertorchAttack):
    """PGD, MI-FGSM and what builds on them, on one network or an ensemble.

        FGSM (Goodfellow et al., ICLR 2015), PGD (Madry et al., ICLR 2018, section 2.1)
        MI (Dong et al., CVPR 2018, algorithm 1): the sign of m = decay * m + g / |g|_1
        NI (Lin et al., ICLR 2020, section 3): the gradient at x + step size * decay * m
        VMI (Wang and He, CVPR 2021, algorithm 1): g + v, where v is the average gradient at the
            neighbours of the step before, less that step's gradient
        SI (Lin et al., ICLR 2020, section 3): the average gradient at x / 2 ** i
        Admix, BSR: the average gradient over their copies; DI, TI: see `transformations`
        EOT (Athalye et al., ICML 2018, section 4.2): the average over draws of what is random

    Like every attack of advertorch's it is called as `perturb(x, y)`. Copies and random draws pass
    one after another, so that they take the memory of one.

    Args:
        attack: the settings.
        networks: from pixels in [0, 1], N x 3 x H x W, to logits, N x classes; frozen.
        pool: the images that Admix mixes in, of the size of those that are attacked, on the
            networks' device.

    Raises:
        ValueError: Admix has no pool.
    """

    def __init__(self, attack: Attack, networks: Sequence[nn.Module], pool: Pool | None = None):
        super().__init__(LogitEnsemble(networks), LOSS_FUNCTIONS[attack.loss], 0.0, 1.0)
        self.attack, self.networks, self.pool = attack, list(networks), pool
        if attack.admix and not pool:
            raise ValueError("Admix mixes images in: it needs a pool of them, see read_pool")
        if attack.evaluations > 1:
            name, number = attack.name, attack.evaluations
            logger.info("%s: %d gradient evaluations a step, of which PGD takes 1", name, number)
        self.targeted = attack.targeted
        self.kernel = gaussian_kernel(attack.ti_kernel, attack.ti_sigma)
        transformed = attack.di_prob or attack.admix or attack.block_shuffle or attack.rand_init
        self._begins_at_natural = not transformed and not any(map(is_random, networks))

    def perturb(
        self,
        x: Tensor,
        y: Tensor | None = None,
        generators: Sequence[torch.Generator] | None = None,
        classes: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial pixels, float in [0, 1], within epsilon / 255 of the natural ones.

        Args:
            x: natural pixels, float in [0, 1], N x 3 x H x W; unchanged.
            y: N class indices, the target classes if the attack is targeted; if None, what the
                networks predict.
            generators: see `Batch`; if None, they depend on the seed and the place in the batch.
            classes: see `Batch`; y if None.
        """
        return self.run(self.batch(x, y, generators, classes))

    def batch(
        self,
        natural: Tensor,
        labels: Tensor | None = None,
        generators: Sequence[torch.Generator] | None = None,
        classes: Tensor | None = None,
    ) -> Batch:
        """Return the arguments of `perturb` as a batch, with defaults for those that are None.

        Raises:
            ValueError: the pool has images of another size.
        """
        if self.attack.admix and self.pool.pixels.shape[1:] != natural.shape[1:]:
            own, other = (tuple(x.shape[2:]) for x in (natural, self.pool.pixels))
            raise ValueError(f"images of {own} pixels, but those that Admix mixes in are {other}")
        if generators is None:
            generators = image_generators(self.attack.seed, map(str, range(len(natural))))
        if labels is None:
            with torch.no_grad():
                labels = self.predict(natural).argmax(1)
        networks = [for_batch(network, generators) for network in self.networks]
        classes = labels if classes is None else classes
        return Batch(natural, labels, generators, classes, networks)

    def run(self, batch: Batch) -> Tensor:
        """Return the batch's adversarial pixels; see `perturb`.

        Raises:
            ValueError: an attack of the user's, which takes the place of the loop, fails.
        """
        attack, natural = self.attack, batch.natural
        if attack.user:
            several = len(batch.networks) > 1
            model = LogitEnsemble(batch.networks) if several else batch.networks[0]
            return attack.user(model, natural, batch.labels, attack, batch.generators)
        epsilon, step_size = attack.epsilon / 255, attack.step_size / 255
        low, high = (natural - epsilon).clamp(min=0), (natural + epsilon).clamp(max=1)
        kernel = to_device(self.kernel.to(natural.dtype), natural.device)
        uphill = -1 if attack.targeted else 1

        start = natural
        if attack.rand_init:
            noise = uniform_noise(natural, batch.generators)
            start = (natural + noise * attack.epsilon / 255).clamp(0, 1)
        delta = torch.zeros_like(start)
        momentum, lead, variance = torch.zeros_like(start), 0, 0
        for step in range(attack.num_steps):
            pixels = start + delta
            ahead = pixels
            if attack.nesterov:
                ahead = pixels + uphill * step_size * attack.momentum * lead
            gradient = self._gradient(batch, ahead)
            direction = gradient
            if attack.variance:
                direction = gradient + variance
                if step < attack.num_steps - 1:
                    variance = self._neighbours(batch, pixels) - gradient
            if attack.ti_kernel > 1:
                direction = smoothed(direction, kernel)
            if attack.nesterov or attack.evaluations > 1:
                direction = _divided_by_mean(direction)
            if attack.nesterov:  # in units of the mean: divided by the L1 norm it would vanish
                lead = attack.momentum * lead + direction
            if attack.momentum:
                momentum = attack.momentum * momentum + _divided_by_norm(direction)
                direction = momentum
            # In torch the sign of NaN is 0, which would hide a broken gradient.
            sign = torch.where(direction.isnan(), direction, direction.sign())
            delta = delta + uphill * step_size * sign
            delta = (start + delta).clamp(low, high) - start
        return (start + delta).clamp(low, high)

    def _gradient(self, batch: Batch, pixels: Tensor) -> Tensor:
        """Return the average gradient of the loss at the pixels, over copies and random draws."""
        attack = self.attack
        leaf = pixels.detach().contiguous().requires_grad_()
        for _ in range(max(1, attack.admix) * attack.eot):
            mixed = leaf
            if attack.admix:
                drawn_for = batch.classes, attack.admix_ratio, batch.generators
                mixed = leaf + admixed(self.pool, *drawn_for)
            for _ in range(max(1, attack.block_shuffle)):
                for power in range(attack.scales):
                    # .grad adds them up; torch.autograd.grad does not pass re-entrant checkpoints.
                    self._loss(batch, mixed / 2**power).backward()
        return leaf.grad / attack.copies

    def _loss(self, batch: Batch, pixels: Tensor) -> Tensor:
        attack = self.attack
        if attack.block_shuffle:
            pixels = shuffle_blocks(pixels, batch.generators)
        if attack.di_prob:
            pixels = input_diversity(pixels, attack.di_prob, attack.di_resize, batch.generators)
        if attack.ensemble == "gradients":
            logits = [network(with_unit_gradient(pixels)) for network in batch.networks]
        else:
            logits = [average_logits([network(pixels) for network in batch.networks])]
        if batch.logits is None and self._begins_at_natural:
            batch.logits = average_logits(logits).detach()
        return sum(self.loss_fn(each, batch.labels) for each in logits)

    def _neighbours(self, batch: Batch, pixels: Tensor) -> Tensor:
        """Return the average gradient at random neighbours of the pixels."""
        reach = self.attack.variance_bound * self.attack.epsilon / 255
        total = torch.zeros_like(pixels)
        for _ in range(self.attack.variance):
            noise = uniform_noise(pixels, batch.generators)
            total += self._gradient(batch, noise.mul_(reach).add_(pixels))
        return total / self.attack.variance


def _divided_by_mean(gradient: Tensor) -> Tensor:
    """Divide a gradient by its mean absolute value, image by image; zeros stay zeros."""
    average = gradient.abs().mean((1, 2, 3), keepdim=True)
    return gradient / torch.where(average > 0, average, 1)


def _divided_by_norm(gradient: Tensor) -> Tensor:
    """Divide a gradient by its L1 norm, image by image, however small that is."""
    norm = gradient.abs().flatten(1).sum(1)[:, None, None, None]
    return gradient * (1 / norm.clamp(min=torch.finfo(norm.dtype).tiny))
