"""Admix's images and BSR's blocks."""

import math

import pytest
import torch
from quadratic import generators
from torch.nn.functional import grid_sample
from torchvision.transforms.functional import InterpolationMode, rotate

from suite.attack.pool import Pool
from suite.attack.transformations import Admix, BlockShuffle, by_gathering


def rotated(block, angle):
    if not block.numel():
        return block
    return rotate(block[None], angle, InterpolationMode.BILINEAR)[0]


def blocks_by_hand(image, generator, degrees=24):
    """Cut an image, 3 x H x W, rotate its blocks, and put them together in their new order."""
    draws = torch.rand(10, dtype=torch.double, generator=generator).tolist()
    (height, width), angles = image.shape[1:], [degrees * (2 * d - 1) for d in draws[6:]]
    cuts, swaps = [], []
    for (one, other, swap), length in ((draws[:3], height), (draws[3:6], width)):
        cuts.append(round((1 - one) / (2 - one - other) * length))
        swaps.append(swap < 0.5)
    rows = image.split([cuts[0], height - cuts[0]], 1)
    strips = []
    for row, strip in enumerate(rows):
        blocks = [
            rotated(block, angles[row + 2 * column])
            for column, block in enumerate(strip.split([cuts[1], width - cuts[1]], 2))
        ]
        strips.append(torch.cat(blocks[::-1] if swaps[1] else blocks, 2))
    return torch.cat(strips[::-1] if swaps[0] else strips, 1)


@pytest.mark.parametrize("size", [(17, 24), (2, 3)])  # of few pixels many a block has none
def test_blocks_are_those_that_are_cut_rotated_and_put_together_by_hand(size):
    names = [str(n) for n in range(40)]
    shuffle, pixels = BlockShuffle(), torch.rand(40, 3, *size, dtype=torch.double)
    shuffle.generators = generators(names=names)
    expected = [blocks_by_hand(*pair) for pair in zip(pixels, generators(names=names), strict=True)]
    torch.testing.assert_close(shuffle(pixels), torch.stack(expected))


def test_blocks_are_those_of_the_image_alone_and_others_in_each_pass():
    shuffle, pixels = BlockShuffle(), torch.rand(3, 3, 20, 20)
    shuffle.generators = generators()
    first, second = shuffle(pixels), shuffle(pixels)
    assert not torch.equal(first, second)
    shuffle.generators = generators(names="b")
    assert torch.equal(shuffle(pixels[1:2]), first[1:2])


def test_gathering_is_sampling_with_one_gradient_on_a_gpu():
    pixels = torch.rand(2, 3, 9, 12, dtype=torch.double, requires_grad=True)
    rows, columns = 8 * torch.rand(2, 9, 12).double(), 11 * torch.rand(2, 9, 12).double()
    rows[0, 0], columns[0, 0] = 8, 11
    grid = torch.stack([columns / 11 * 2 - 1, rows / 8 * 2 - 1], -1)
    weights = torch.rand(2, 3, 9, 12)
    found, expected = (
        by_gathering(pixels, rows, columns),
        grid_sample(pixels, grid, align_corners=True),
    )
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((weights * x).sum(), pixels)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients)


def pool_of(labels):
    """A pool whose images tell their number."""
    pixels = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    return Pool(pixels, torch.tensor(labels))


def test_admix_draws_every_image_of_another_class_as_often():
    labels = [5, 7, 5, 9, 7, 5]
    admix = Admix(pool_of(labels), ratio=0.2)
    admix.generators = generators(names=map(str, range(3000)))
    classes = torch.tensor([5, 7, 1] * 1000)
    drawn = admix(classes)
    assert drawn.shape == (3000, 3, 2, 2)
    numbers = (drawn[:, 0, 0, 0] * 255 / 0.2).round().long()
    for label in (5, 7, 1):
        counts = torch.bincount(numbers[classes == label], minlength=6).tolist()
        others = [n for n, each in enumerate(labels) if each != label]
        assert [n for n, count in enumerate(counts) if count] == others
        share = 1000 / len(others)
        assert all(abs(counts[n] - share) < 5 * math.sqrt(share) for n in others)


def test_admix_draws_for_an_image_alone_and_anew():
    admix = Admix(pool_of(range(200)))
    admix.generators = generators()
    first, second = admix(torch.tensor([1, 2, 3])), admix(torch.tensor([1, 2, 3]))
    assert not torch.equal(first, second)
    admix.generators = generators(names="b")
    assert torch.equal(admix(torch.tensor([2])), first[1:2])
