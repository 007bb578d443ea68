"""What turns an image into copies of itself: images of other classes, blocks that move."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample

from suite.attack.pool import Pool
from suite.running import devices


class Admix(nn.Module):
    """Admix (Wang et al., ICCV 2021, section 3): a share of an image of another class, to be added.

    Args:
        pool: with its labels known, of two classes or more.
        ratio: how much of an image.

    Attributes:
        generators: of the images of the current batch, set before the attack on it.
    """

    def __init__(self, pool: Pool, ratio: float = 0.2):
        super().__init__()
        self.ratio = ratio
        self.generators: Sequence[torch.Generator] = ()
        self.register_buffer("pixels", pool.pixels)
        self.register_buffer("labels", pool.labels)

    def forward(self, classes: Tensor) -> Tensor:
        """Return what to add to images of these classes, N: floats, N x 3 x H x W."""
        uniform = _drawn(self.generators, 1, classes.device)
        others = classes[:, None] != self.labels  # N x P
        number = (uniform * others.sum(1, keepdim=True)).floor()
        # The first place up to which there are more than `number`.
        index = (others.cumsum(1) > number).int().argmax(1)
        return self.pixels[index] * (self.ratio / 255)


class BlockShuffle(nn.Module):
    """BSR (Wang et al., CVPR 2024, section 3): shuffle an image's 2 x 2 blocks, and rotate each.

    Each image by itself, and anew in each pass. As in the authors' code, the lengths of two rows
    are as two uniform numbers, both rows have the same columns, and rows and columns are shuffled
    by themselves. As in the paper, angles are uniform. A block keeps its size; it is rotated about
    its middle, bilinearly, and has zeros where it shows what was outside.

    Args:
        degrees: the largest angle.

    Attributes:
        generators: of the images of the current batch, set before the attack on it.
    """

    def __init__(self, degrees: float = 24):
        super().__init__()
        self.degrees = degrees
        self.generators: Sequence[torch.Generator] = ()

    def forward(self, pixels: Tensor) -> Tensor:
        draws = _drawn(self.generators, 10, pixels.device).to(pixels.dtype)
        angles = math.radians(self.degrees) * (2 * draws[:, 6:, None, None] - 1)
        y, top, bottom, upper = _line(draws[:, :3], pixels.shape[2], across=2)
        x, left, right, lefter = _line(draws[:, 3:6], pixels.shape[3], across=1)
        sine, cosine = (
            torch.where(
                lefter, torch.where(upper, a[:, 0], a[:, 1]), torch.where(upper, a[:, 2], a[:, 3])
            )
            for a in (angles.sin(), angles.cos())
        )
        middle_y, middle_x = (top + bottom) / 2, (left + right) / 2
        y, x = y - middle_y, x - middle_x
        rows = torch.addcmul(middle_y, cosine, y).addcmul_(sine, x)
        columns = torch.addcmul(middle_x, cosine, x).addcmul_(sine, y, value=-1)
        # Beyond its last pixel a block fades to zero over the length of one.
        near_rows, near_columns = rows.clamp(top, bottom), columns.clamp(left, right)
        inside = (1 - rows.sub_(near_rows).abs_()).clamp_(min=0)
        inside *= (1 - columns.sub_(near_columns).abs_()).clamp_(min=0)
        return _sampled(pixels, near_rows, near_columns) * inside[:, None]


def _drawn(generators: Sequence[torch.Generator], count: int, device: torch.device) -> Tensor:
    """Return numbers of each image, N x count, uniform in [0, 1), without waiting for a GPU."""
    draws = [torch.rand(count, dtype=torch.double, generator=g) for g in generators]
    return devices.to_device(torch.stack(draws), str(device))


def _line(draws: Tensor, length: int, across: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cut lines in two, and swap the parts or not.

    Args:
        draws: N x 3, uniform in [0, 1).
        across: the other dimension of an image, N x H x W.

    Returns:
        Of each place, the one whose pixel comes there, the first and the last one of its part, and
        whether it is the first part; all can be broadcast to N x H x W.
    """
    first, second = 1 - draws[:, :1], 1 - draws[:, 1:2]  # neither is 0
    cut = (first / (first + second) * length).round()
    shift = torch.where(draws[:, 2:] < 0.5, cut, 0)
    place = (torch.arange(length, device=draws.device) + shift) % length
    in_first = place < cut
    begin = torch.where(in_first, 0, cut)
    end = torch.where(in_first, cut, length) - 1
    return tuple(each.unsqueeze(across) for each in (place, begin, end, in_first))


def _sampled(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return an image's values, N x C x H x W, at places of it, N x H x W each, in pixels."""
    if pixels.is_cuda and torch.are_deterministic_algorithms_enabled():
        return by_gathering(pixels, rows, columns)
    height, width = (max(1, length - 1) for length in pixels.shape[2:])
    grid = torch.stack([columns * (2 / width) - 1, rows * (2 / height) - 1], -1)
    return grid_sample(pixels, grid, align_corners=True)


def by_gathering(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the same as `grid_sample`, whose gradient on a GPU adds up in no fixed order."""
    height, width = pixels.shape[2:]
    top, left = rows.floor(), columns.floor()
    lower, righter = rows - top, columns - left
    total = torch.zeros_like(pixels)
    for down, vertical in ((0, 1 - lower), (1, lower)):
        for right, horizontal in ((0, 1 - righter), (1, righter)):
            y, x = (top + down).clamp(max=height - 1), (left + right).clamp(max=width - 1)
            index = (y * width + x).long().flatten(1)[:, None].expand(-1, pixels.shape[1], -1)
            values = pixels.flatten(2).gather(2, index).view_as(pixels)
            total = total + values * (vertical * horizontal)[:, None]
    return total
