"""Random defences, which pass an image through the network behind them several times.

Where a gradient is wanted they make one pass, with one random draw for each image; EOT averages
gradients over several draws (Athalye, Carlini and Wagner, ICML 2018, section 4.2).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, one_hot, pad

from suite.networks.resizing import resized
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
        placed = []
        for image, generator in zip(pixels.split(1), generators, strict=True):
            size, top, left, flip = torch.rand(4, dtype=torch.double, generator=generator).tolist()
            size = self.smallest + int(size * (self.padded - self.smallest))
            room = self.padded - size
            top, left = int(top * (room + 1)), int(left * (room + 1))
            image = image.flip(3) if flip < 0.5 else image
            image = interpolate(image, (size, size), mode="nearest")
            placed.append(pad(image, (left, room - left, top, room - top), value=0.5))
        return torch.cat(placed)


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
        shares = with_abstentions(votes).to(votes.device).clamp(min=NO_SHARE).log()
        return torch.where(finite[:, None], shares, torch.nan)


def with_abstentions(votes: Tensor) -> Tensor:
    """Return the shares of votes, N x classes, with a last class that has all if no class wins."""
    from scipy.stats import binomtest

    votes = votes.cpu()
    most_votes = votes.topk(2, 1).values.long().tolist()
    won = torch.tensor(
        [[binomtest(first, first + second, 0.5).pvalue <= ALPHA] for first, second in most_votes]
    )
    return torch.cat([won * votes / votes.sum(1, keepdim=True), ~won], 1)
