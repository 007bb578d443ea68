"""Random defences, which pass an image through the network behind them several times.

Where a gradient is wanted they make one pass, with one random draw for each image; EOT averages
gradients over several draws (Athalye, Carlini and Wagner, ICML 2018, section 4.2).
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, one_hot, pad

from suite.networks.resizing import BEYOND, linear_matrices, products, resized
from suite.running import devices
from suite.running.random_numbers import normal_noise

Network = Callable[[Tensor], Tensor]

ALPHA = 0.001  # significance level of Cohen et al.'s predict
NO_SHARE = 1e-30  # stands for a share of 0, since its logarithm is finite


class RandomDefence(nn.Module):
    """A defence that is called with pixels, the network behind it, and per-image generators.

    The network is any function from pixels to logits. The defence returns logits, too. Subclasses
    define `drawn`, which changes pixels at random, and `combined`, which averages several passes.
    """

    def forward(
        self, pixels: Tensor, network: Network, generators: Sequence[torch.Generator]
    ) -> Tensor:
        def one_pass() -> Tensor:
            return network(self.drawn(pixels, generators))

        return one_pass() if pixels.requires_grad else self.combined(one_pass)


class RandomPadding(RandomDefence):
    """Randomisation (Xie et al., ICLR 2018): resize, pad and flip at random; average the answers.

    As in the authors' code (cihangxie/NIPS2017_adv_challenge_defense, commit 03fd8ac), images are
    enlarged to 310 to 330 pixels by nearest neighbours, padded to 331 at a random place, and
    flipped with probability 0.5; the probabilities of 30 such passes are averaged. The authors pad
    pixels in [-1, 1] with zeros, which is a grey of 0.5 here. Unlike theirs, each image of a batch
    has its own draws, and there is no auxiliary classifier.

    Returns the logarithms of the averaged probabilities. The network gets N x 3 x 331 x 331.
    """

    smallest, padded, passes = 310, 331, 30

    def combined(self, one_pass: Callable[[], Tensor]) -> Tensor:
        total = sum(one_pass().softmax(1) for _ in range(self.passes))
        return (total / self.passes).clamp(min=NO_SHARE).log()

    def drawn(self, pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return images with random sizes at random places, N x 3 x 331 x 331."""
        draws = [
            torch.rand(4, dtype=torch.double, generator=generator).tolist()
            for generator in generators
        ]
        if not pixels.is_cpu:
            return self.drawn_together(pixels, draws)
        placed = []
        for image, (size, top, left, flip) in zip(pixels.split(1), draws, strict=True):
            size, top, left = self._size_and_place(size, top, left)
            room = self.padded - size
            image = image.flip(3) if flip < 0.5 else image
            image = interpolate(image, (size, size), mode="nearest")
            placed.append(pad(image, (left, room - left, top, room - top), value=0.5))
        return torch.cat(placed)

    def _size_and_place(self, size: float, *places: float) -> tuple[int, ...]:
        """Return an image's size and where it begins, for uniform numbers."""
        size = self.smallest + int(size * (self.padded - self.smallest))
        return size, *(int(place * (self.padded - size + 1)) for place in places)

    def drawn_together(self, pixels: Tensor, draws: list[list[float]]) -> Tensor:
        """Return what `drawn` returns, by matrices of ones and zeros for rows and columns.

        On a GPU the gradient of `interpolate`, and of indexing, adds up in no fixed order.
        """
        drawn = torch.tensor([self._size_and_place(*each[:3]) for each in draws])
        size, flip = drawn[:, :1], torch.tensor([[each[3] < 0.5] for each in draws])
        matrices = []
        for own, begin in zip(pixels.shape[2:], drawn[:, 1:].T[..., None], strict=True):
            place = torch.arange(self.padded) - begin
            # In float32, as `interpolate` rounds it.
            source = (place * (own / size.double()).float()).floor().clamp(max=own - 1)
            if matrices:
                source = torch.where(flip, own - 1 - source, source)
            inside = (place >= 0) & (place < size)
            source = devices.to_device(torch.where(inside, source, BEYOND).double(), pixels.device)
            matrices.append(linear_matrices(source, own, pixels.dtype))
        inside = [matrix.sum(2) > 0 for matrix in matrices]
        inside = inside[0][:, None, :, None] & inside[1][:, None, None]
        return torch.where(inside, products(pixels, *matrices), 0.5)


class Smoothing(RandomDefence):
    """Randomised smoothing (Cohen, Rosenfeld and Kolter, ICML 2019): noisy copies vote.

    As in the authors' `predict` (locuslab/smoothing, commit bdfa228), Gaussian noise is added to
    pixels in [0, 1] at the network's input size, and is not clipped. The class with the most votes
    is the answer if it has significantly more votes than the second one, by a two-sided binomial
    test at 0.001; otherwise the defence abstains.

    Args:
        size: height and width that the network takes.
        sigma: standard deviation of the noise, where white is 1.
        copies: how many copies vote.

    Returns the logarithms of the shares of the votes, N x (classes + 1): the last class stands for
    an abstention, and then has all votes. Where a gradient is wanted, it returns the logits of one
    noisy copy, N x classes.
    """

    def __init__(self, size: tuple[int, int], sigma: float, copies: int):
        super().__init__()
        self.size = tuple(size)
        self.sigma = sigma
        self.copies = copies

    def forward(
        self, pixels: Tensor, network: Network, generators: Sequence[torch.Generator]
    ) -> Tensor:
        if tuple(pixels.shape[-2:]) != self.size:
            pixels = resized(pixels, self.size, antialias=True)
        return super().forward(pixels, network, generators)

    def drawn(self, pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        return pixels + self.sigma * normal_noise(pixels, generators)

    def combined(self, one_pass: Callable[[], Tensor]) -> Tensor:
        votes, finite = 0, True
        for _ in range(self.copies):
            logits = one_pass()
            votes += one_hot(logits.argmax(1), logits.shape[1])
            finite &= logits.isfinite().all(1)
        shares = with_abstentions(votes, self.copies).clamp(min=NO_SHARE).log()
        return torch.where(finite[:, None], shares, torch.nan)


def with_abstentions(votes: Tensor, copies: int) -> Tensor:
    """Return the shares of votes, N x classes, with a last class that has all if no class wins.

    Args:
        copies: how many vote, at most.
    """
    first, second = votes.topk(2, 1).values.long().T
    won = (first >= _winning_votes(copies, votes.device)[first + second])[:, None]
    return torch.cat([won * votes / votes.sum(1, keepdim=True), ~won], 1)


@functools.lru_cache(16)
@torch.inference_mode(False)
def _winning_votes(most: int, device: torch.device) -> Tensor:
    """Return how many of 0 to `most` votes for two classes are significant for one of them."""
    from scipy.stats import binom

    # The two-sided p-value of k votes is twice the probability of more than k - 1.
    needed = 1 + binom.isf(ALPHA / 2, np.arange(most + 1), 0.5)
    return devices.to_device(torch.from_numpy(needed), device)
