"""Defences that draw: each of their passes is of the whole network behind them.

Where a gradient is wanted, they make one pass with one draw of each image; EOT averages gradients
over several (Athalye, Carlini and Wagner, ICML 2018, section 4.2).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from suite.networks.resizing import resized
from suite.running import random_numbers

ALPHA = 0.001  # of Cohen et al.'s predict
NO_SHARE = 1e-30  # whose logarithm is finite


class Randomised(nn.Module):
    """What draws for each image by itself.

    Attributes:
        generators: of the images of the current batch, set before each pass.
    """

    def __init__(self, behind: nn.Module):
        super().__init__()
        self.behind = behind
        self.generators: Sequence[torch.Generator] = ()


class RandomPadding(Randomised):
    """Randomisation (Xie et al., ICLR 2018): resize, pad and flip at random; average the answers.

    As in the authors' code (cihangxie/NIPS2017_adv_challenge_defense, commit 03fd8ac): enlarged to
    310 to 330 pixels by nearest neighbours, padded to 331 at a random place, and flipped with a
    probability of 0.5; the probabilities of 30 such passes are averaged. Their zeros are those of
    pixels in [-1, 1]: a grey of 0.5. Other than there, each image of a batch has draws of its own,
    and no auxiliary classifier joins in.

    Args:
        behind: from pixels of 331 x 331, N x 3 x 331 x 331, to logits.
        passes: how many are averaged.

    Returns the logarithms of the averages, N x classes.
    """

    smallest, padded = 310, 331

    def __init__(self, behind: nn.Module, passes: int = 30):
        super().__init__(behind)
        self.passes = passes

    def forward(self, pixels: Tensor) -> Tensor:
        if pixels.requires_grad:
            return self.behind(self.drawn(pixels))
        total = sum(self.behind(self.drawn(pixels)).softmax(1) for _ in range(self.passes))
        return (total / self.passes).clamp(min=NO_SHARE).log()

    def drawn(self, pixels: Tensor) -> Tensor:
        """Return images in their random sizes, at random places, N x 3 x 331 x 331."""
        pairs = zip(pixels.split(1), self.generators, strict=True)
        return torch.cat([self._drawn(*pair) for pair in pairs])

    def _drawn(self, image: Tensor, generator: torch.Generator) -> Tensor:
        size, top, left, flip = torch.rand(4, dtype=torch.double, generator=generator).tolist()
        size = self.smallest + int(size * (self.padded - self.smallest))
        room = self.padded - size
        top, left = int(top * (room + 1)), int(left * (room + 1))
        image = image.flip(3) if flip < 0.5 else image
        image = interpolate(image, (size, size), mode="nearest")
        return pad(image, (left, room - left, top, room - top), value=0.5)


class Smoothing(Randomised):
    """Randomised smoothing (Cohen, Rosenfeld and Kolter, ICML 2019): noisy copies vote.

    As in the authors' `predict` (locuslab/smoothing, commit bdfa228): the noise is Gaussian, added
    to pixels in [0, 1] at the network's input size, and not clipped. The class with most votes is
    the answer if it has significantly more of them than the second one, in a two-sided binomial
    test at 0.001; else there is none.

    Args:
        behind: from pixels to logits, N x classes.
        size: height and width that the network takes.
        sigma: standard deviation of the noise, where white is 1.
        copies: how many vote.

    Returns logarithms of shares of the votes, N x (classes + 1): an abstention is a class of its
    own behind the last one, which has all votes then. Where a gradient is wanted, the logits of one
    copy.
    """

    def __init__(
        self, behind: nn.Module, size: tuple[int, int], sigma: float = 0.25, copies: int = 1000
    ):
        super().__init__(behind)
        self.size = tuple(size)
        self.sigma = sigma
        self.copies = copies

    def forward(self, pixels: Tensor) -> Tensor:
        if tuple(pixels.shape[-2:]) != self.size:
            pixels = resized(pixels, self.size, antialias=True)
        if pixels.requires_grad:
            return self.behind(self._noisy(pixels))
        votes = finite = None
        for _ in range(self.copies):
            logits = self.behind(self._noisy(pixels))
            if votes is None:
                votes, finite = torch.zeros_like(logits), logits.isfinite().all(1)
            finite &= logits.isfinite().all(1)
            votes.scatter_add_(1, logits.argmax(1, keepdim=True), torch.ones_like(votes[:, :1]))
        shares = with_abstentions(votes).to(pixels.device).clamp(min=NO_SHARE).log()
        return torch.where(finite[:, None], shares, torch.nan)

    def _noisy(self, pixels: Tensor) -> Tensor:
        return pixels + self.sigma * random_numbers.normal_noise(pixels, self.generators)


def with_abstentions(votes: Tensor) -> Tensor:
    """Return shares of votes, N x classes, with one more class: it has all where no class wins."""
    from scipy.stats import binomtest

    votes = votes.cpu()
    first, second = (each.long().tolist() for each in votes.topk(2, 1).values.T)
    won = [
        binomtest(most, most + next_, 0.5).pvalue <= ALPHA
        for most, next_ in zip(first, second, strict=True)
    ]
    won = torch.tensor(won, dtype=votes.dtype)[:, None]
    return torch.cat([won * votes / votes.sum(1, keepdim=True), 1 - won], 1)
