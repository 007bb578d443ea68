"""Random numbers of each image, which depend on a seed and the image's name alone."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor


def image_generators(seed: int, names: Sequence[str]) -> list[torch.Generator]:
    """Return a random generator per image, which depends on the seed and the image's name alone."""
    digests = (hashlib.sha256(f"{seed} {name}".encode()).digest() for name in names)
    return [torch.Generator().manual_seed(int.from_bytes(d[:8], "big") >> 1) for d in digests]


def generators_for(count: int, generators: Sequence[torch.Generator]) -> list[torch.Generator]:
    """Return generators for another number of images, as copies of those that the given are of."""
    seeds = (
        torch.randint(2**63 - 1, (1,), generator=generators[n % len(generators)]).item()
        for n in range(count)
    )
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def uniform_noise(pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Return numbers like the pixels, N x 3 x H x W, drawn uniformly from [-1, 1]."""
    return _drawn(pixels, generators, _uniform)


def normal_noise(pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Return numbers like the pixels, N x 3 x H x W, drawn from the normal distribution."""
    return _drawn(pixels, generators, _normal)


def _uniform(image: Tensor, generator: torch.Generator) -> Tensor:
    return image.uniform_(-1, 1, generator=generator)


def _normal(image: Tensor, generator: torch.Generator) -> Tensor:
    return image.normal_(generator=generator)


def _drawn(pixels: Tensor, generators: Sequence[torch.Generator], fill: Callable) -> Tensor:
    drawn = torch.empty(pixels.shape, dtype=pixels.dtype, device=pixels.device)
    if pixels.device.type != "cpu":
        return drawn_by_seeds(drawn, generators, fill)
    with ThreadPoolExecutor() as pool:
        pairs = list(zip(drawn, generators, strict=True))
        list(pool.map(lambda pair: fill(*pair), pairs))
    return drawn


def drawn_by_seeds(
    pixels: Tensor, generators: Sequence[torch.Generator], fill: Callable = _uniform
) -> Tensor:
    """Fill pixels in place with the numbers of their own device, whose seeds are drawn instead.

    A CPU would take longer for the numbers than a GPU for a pass.
    """
    own = torch.Generator(pixels.device)
    for image, generator in zip(pixels, generators, strict=True):
        (seed,) = torch.randint(2**63 - 1, (1,), generator=generator).tolist()
        fill(image, own.manual_seed(seed))
    return pixels
