"""DI, TI, Admix's images and BSR's blocks."""

import math

import pytest
import torch
from bases import gaussian, generators
from torch.nn.functional import grid_sample
from torchvision.transforms.functional import InterpolationMode, rotate

from suite.attack.pool import Pool
from suite.attack.transformations import (
    admixed,
    diversified_together,
    gaussian_kernel,
    input_diversity,
    sampled_by_gathering,
    shuffle_blocks,
    smoothed,
)

MANY = [str(n) for n in range(600)]


@pytest.mark.parametrize(("size", "sigma"), [(15, 3), (7, 2), (1, 3)])
def test_ti_smooths_the_gradient_as_scipy_does(size, sigma):
    gradient, radius = torch.randn(2, 3, 20, 30), size // 2
    expected = gaussian(gradient, radius / sigma, radius) if radius else gradient
    torch.testing.assert_close(smoothed(gradient, gaussian_kernel(size, sigma)), expected)


@pytest.mark.parametrize(("probability", "within"), [(0, 0), (0.3, 0.07)])
def test_di_transforms_as_often_as_its_probability_says(probability, within):
    pixels = torch.rand(600, 3, 9, 9)
    diverse = input_diversity(pixels, probability, 330 / 299, generators(MANY))
    same = (diverse == pixels).flatten(1).all(1).float().mean()
    assert same == pytest.approx(1 - probability, abs=within)


def test_di_shrinks_images_by_a_uniform_factor_on_average():
    """White images keep the share (s / r)^2 of their area, s uniform in [1, r]; else black."""
    resize, white = 1.5, torch.ones(400, 3, 40, 40)
    means = input_diversity(white, 1, resize, generators(MANY[:400])).mean((1, 2, 3))
    expected = (resize**3 - 1) / (3 * (resize - 1)) / resize**2
    assert means.mean() == pytest.approx(expected, abs=0.02)
    assert means.min() == pytest.approx(1 / resize**2, abs=0.02)
    assert means.max() == pytest.approx(1, abs=0.02)


def test_di_places_images_everywhere():
    white = torch.ones(400, 1, 40, 40)
    average = input_diversity(white, 1, 1.5, generators(MANY[:400])).mean(0)[0]
    torch.testing.assert_close(average, average.flip(0), atol=0.12, rtol=0)
    torch.testing.assert_close(average, average.flip(1), atol=0.12, rtol=0)
    assert average[0, 0] < average[20, 20]


def pool_of(labels):
    """A pool whose images tell their number."""
    pixels = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    return Pool(pixels, torch.tensor(list(labels)))


@pytest.mark.parametrize("resize", [330 / 299, 1.8])
@pytest.mark.parametrize("size", [(7, 5), (32, 48), (224, 224)])
def test_di_of_a_batch_on_a_gpu_is_that_of_each_image(size, resize):
    pixels = torch.rand(9, 3, *size, requires_grad=True)
    draws = [torch.rand(4, generator=each).tolist() for each in generators(MANY[:9])]
    expected = input_diversity(pixels, 0.7, resize, generators(MANY[:9]))
    found = diversified_together(pixels, 0.7, resize, draws)
    same = torch.tensor([each[0] >= 0.7 for each in draws])
    assert same.any()
    assert torch.equal(found[same], pixels[same])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    weights = torch.rand_like(pixels)
    gradients = [torch.autograd.grad((weights * x).sum(), pixels)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "transform",
    [
        lambda pixels, drawn: input_diversity(pixels, 1, 330 / 299, drawn),
        lambda pixels, drawn: admixed(pool_of(range(200)), torch.ones(len(pixels)), 0.2, drawn),
        shuffle_blocks,
    ],
)
def test_transformation_is_of_the_image_alone_and_drawn_anew_in_each_pass(transform):
    pixels, drawn = torch.rand(1, 3, 60, 60).expand(3, 3, 60, 60), generators()
    first, second = transform(pixels, drawn), transform(pixels, drawn)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(transform(pixels[1:2], generators("b")), first[1:2])


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
    pixels, names = torch.rand(40, 3, *size, dtype=torch.double), MANY[:40]
    expected = [blocks_by_hand(*pair) for pair in zip(pixels, generators(names), strict=True)]
    found = shuffle_blocks(pixels, generators(names))
    torch.testing.assert_close(found, torch.stack(expected))


def test_gathering_is_sampling_with_one_gradient_on_a_gpu():
    pixels = torch.rand(2, 3, 9, 12, dtype=torch.double, requires_grad=True)
    rows, columns = 8 * torch.rand(2, 9, 12).double(), 11 * torch.rand(2, 9, 12).double()
    rows[0, 0], columns[0, 0] = 8, 11
    grid = torch.stack([columns / 11 * 2 - 1, rows / 8 * 2 - 1], -1)
    weights = torch.rand(2, 3, 9, 12)
    found = sampled_by_gathering(pixels, rows, columns)
    expected = grid_sample(pixels, grid, align_corners=True)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((weights * x).sum(), pixels)[0] for x in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_admix_draws_every_image_of_another_class_as_often():
    labels, classes = [5, 7, 5, 9, 7, 5], torch.tensor([5, 7, 1] * 1000)
    drawn_from = generators(map(str, range(3000)))
    drawn = admixed(pool_of(labels), classes, 0.2, drawn_from)
    assert drawn.shape == (3000, 3, 2, 2)
    numbers = (drawn[:, 0, 0, 0] * 255 / 0.2).round().long()
    for label in (5, 7, 1):
        counts = torch.bincount(numbers[classes == label], minlength=6).tolist()
        others = [n for n, each in enumerate(labels) if each != label]
        assert [n for n, count in enumerate(counts) if count] == others
        share = 1000 / len(others)
        assert all(abs(counts[n] - share) < 5 * math.sqrt(share) for n in others)
