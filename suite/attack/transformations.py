"""Input transformations, DI, Admix and BSR, and TI's smoothing of the gradient.

Each image is transformed by itself, with random numbers out of its own generator.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, pad

from suite.attack.pool import Pool
from suite.networks.resizing import (
    BEYOND,
    float32_products,
    linear_matrices,
    products,
    resize_matrix,
    resized,
)
from suite.running import devices


def input_diversity(
    pixels: Tensor, probability: float, resize: float, generators: Sequence[torch.Generator]
) -> Tensor:
    """Return images, N x 3 x H x W, resized and padded at random with a probability.

    DI (Xie et al., CVPR 2019, section 3.3): an image is enlarged to a random size up to `resize`
    times its own, padded with zeros at random to the largest size, and brought back to its own.
    """
    draws = [torch.rand(4, generator=generator).tolist() for generator in generators]
    if not pixels.is_cpu:
        return diversified_together(pixels, probability, resize, draws)
    pairs = zip(pixels.split(1), draws, strict=True)
    return torch.cat([_resized_and_padded(*pair, probability, resize) for pair in pairs])


def _resized_and_padded(
    image: Tensor, draws: list[float], probability: float, resize: float
) -> Tensor:
    chance, scale, *places = draws
    if chance >= probability:
        return image
    own = tuple(image.shape[-2:])
    (height, y, tall), (width, x, wide) = (
        _size_and_place(length, resize, scale, place)
        for length, place in zip(own, places, strict=True)
    )
    image = resized(image, (height, width))
    image = pad(image, (x, wide - width - x, y, tall - height - y))
    return resized(image, own, antialias=True)


def _size_and_place(own: int, resize: float, scale: float, place: float) -> tuple[int, int, int]:
    """Return DI's enlarged size, where it begins, and the largest size, for uniform numbers."""
    largest, size = round(own * resize), round(own * (1 + scale * (resize - 1)))
    return size, int(place * (largest - size + 1)), largest


def diversified_together(
    pixels: Tensor, probability: float, resize: float, draws: list[list[float]]
) -> Tensor:
    """Apply DI to a batch at once, with one matrix for each image's rows and one for its columns.

    Equals the transformation of each image by itself, up to rounding.

    Args:
        draws: four uniform numbers for each image.
    """
    matrices = []
    for axis, own in enumerate(pixels.shape[2:]):
        drawn = [_size_and_place(own, resize, each[1], each[2 + axis]) for each in draws]
        size, begin, _ = torch.tensor(drawn, dtype=torch.double).T[..., None]
        place = torch.arange(drawn[0][2]) - begin
        inside = (place >= 0) & (place < size)
        places = (((place + 0.5) * own / size) - 0.5).clamp(0, own - 1)
        places = devices.to_device(torch.where(inside, places, BEYOND), pixels.device)
        enlarged = linear_matrices(places, own, pixels.dtype)
        kind = True, "bilinear", pixels.device, pixels.dtype
        with float32_products(pixels.device):
            matrices.append(resize_matrix(places.shape[1], own, *kind) @ enlarged)
    chosen = torch.tensor([each[0] < probability for each in draws])
    chosen = devices.to_device(chosen, pixels.device)[:, None, None, None]
    return torch.where(chosen, products(pixels, *matrices), pixels)


def admixed(
    pool: Pool, classes: Tensor, ratio: float, generators: Sequence[torch.Generator]
) -> Tensor:
    """Return what Admix adds to images, N x 3 x H x W (Wang et al., ICCV 2021, section 3).

    For each image it is `ratio` times a random image of the pool that has another class.

    Args:
        pool: on the images' device.
        classes: N class indices of the images.
    """
    uniform = _uniform_numbers(generators, 1, classes.device)
    others = classes[:, None] != pool.labels  # N x P
    number = (uniform * others.sum(1, keepdim=True)).floor()
    # The first place up to which there are more than `number`.
    index = (others.cumsum(1) > number).int().argmax(1)
    return pool.pixels[index] * (ratio / 255)


def shuffle_blocks(
    pixels: Tensor, generators: Sequence[torch.Generator], degrees: float = 24
) -> Tensor:
    """Return images, N x 3 x H x W, whose 2 x 2 blocks are shuffled and rotated.

    BSR (Wang et al., CVPR 2024, section 3). As in the authors' code, the two rows have heights in
    the ratio of two uniform numbers, both have the same columns, and rows and columns are shuffled
    independently. As in the paper, angles are uniform. A block keeps its size; it is rotated about
    its centre, bilinearly, and padded with zeros.

    Args:
        degrees: the largest angle.
    """
    draws = _uniform_numbers(generators, 10, pixels.device).to(pixels.dtype)
    angles = math.radians(degrees) * (2 * draws[:, 6:, None, None] - 1)
    y, top, bottom, in_upper = _cut_and_swapped(draws[:, :3], pixels.shape[2], across=2)
    x, left, right, in_left = _cut_and_swapped(draws[:, 3:6], pixels.shape[3], across=1)
    block = torch.where(in_left, 0, 2) + torch.where(in_upper, 0, 1)  # N x H x W, 0 to 3
    sine, cosine = (
        values.flatten(1).gather(1, block.flatten(1)).view(block.shape)
        for values in (angles.sin(), angles.cos())
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


def _uniform_numbers(
    generators: Sequence[torch.Generator], count: int, device: torch.device
) -> Tensor:
    """Return per-image numbers, N x count, uniform in [0, 1), without waiting for a GPU."""
    draws = [torch.rand(count, dtype=torch.double, generator=g) for g in generators]
    return devices.to_device(torch.stack(draws), device)


def _cut_and_swapped(
    draws: Tensor, length: int, across: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cut lines in two at random, and swap the parts with probability 0.5.

    Args:
        draws: N x 3, uniform in [0, 1).
        across: the other dimension of an image, N x H x W.

    Returns:
        For each place, the place whose pixel comes there, the first and the last place of that
        part, and whether it is the first part; all can be broadcast to N x H x W.
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
    """Return images' values, N x C x H x W, at places of them, N x H x W each, in pixels."""
    if pixels.is_cuda and torch.are_deterministic_algorithms_enabled():
        return sampled_by_gathering(pixels, rows, columns)
    height, width = (max(1, length - 1) for length in pixels.shape[2:])
    grid = torch.stack([columns * (2 / width) - 1, rows * (2 / height) - 1], -1)
    return grid_sample(pixels, grid, align_corners=True)


def sampled_by_gathering(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Do as `grid_sample` does, whose gradient on a GPU adds up in no fixed order."""
    height, width = pixels.shape[2:]
    top, left = rows.floor(), columns.floor()
    total = torch.zeros_like(pixels)
    for down, vertical in ((0, 1 - (rows - top)), (1, rows - top)):
        for right, horizontal in ((0, 1 - (columns - left)), (1, columns - left)):
            y, x = (top + down).clamp(max=height - 1), (left + right).clamp(max=width - 1)
            index = (y * width + x).long().flatten(1)[:, None].expand(-1, pixels.shape[1], -1)
            values = pixels.flatten(2).gather(2, index).view_as(pixels)
            total = total + values * (vertical * horizontal)[:, None]
    return total


def gaussian_kernel(size: int, sigma: float) -> Tensor:
    """Return TI's kernel, 3 x 1 x size x size: a Gaussian with a sum of 1 for each channel.

    Args:
        size: in pixels; odd.
        sigma: how many standard deviations the kernel reaches to each side.
    """
    line = torch.exp(-(torch.linspace(-sigma, sigma, size) ** 2) / 2)
    kernel = torch.outer(line, line)
    return (kernel / kernel.sum()).expand(3, 1, size, size).clone()


def smoothed(gradient: Tensor, kernel: Tensor) -> Tensor:
    """Return a gradient, N x 3 x H x W, convolved with a kernel, 3 x 1 x size x size.

    TI (Dong et al., CVPR 2019, section 3.2).
    """
    return conv2d(gradient, kernel, padding="same", groups=3)
