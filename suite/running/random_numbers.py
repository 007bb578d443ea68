"""Per-image random numbers, which depend on a seed and the image's name alone."""

import hashlib
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor


def image_generators(seed: int, names: Sequence[str]) -> list[torch.Generator]:
    """Return a random generator for each of the images of these names."""
    digests = (hashlib.sha256(f"{seed} {name}".encode()).digest() for name in names)
    return [torch.Generator().manual_seed(int.from_bytes(d[:8], "big") >> 1) for d in digests]


def seed_globals(seed: int, names: Sequence[str]) -> None:
    """Seed the global generators, from which a user's network may draw, for a batch of images."""
    digest = hashlib.sha256("\n".join([str(seed), *names]).encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    np.random.seed(int.from_bytes(digest[:4], "big"))
    random.seed(digest)


def generators_for(count: int, generators: Sequence[torch.Generator]) -> list[torch.Generator]:
    """Return generators for `count` images, the copies of those that `generators` are for."""
    seeds = [_drawn_seed(generators[n % len(generators)]) for n in range(count)]
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def _drawn_seed(generator: torch.Generator) -> int:
    return torch.randint(2**63 - 1, (1,), generator=generator).item()


def uniform_noise(pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Return numbers like the pixels, N x 3 x H x W, drawn uniformly from [-1, 1]."""
    return _noise(pixels, generators, lambda image, g: image.uniform_(-1, 1, generator=g))


def normal_noise(pixels: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Return numbers like the pixels, N x 3 x H x W, drawn from the normal distribution."""
    return _noise(pixels, generators, lambda image, g: image.normal_(generator=g))


def _noise(pixels: Tensor, generators: Sequence[torch.Generator], fill: Callable) -> Tensor:
    noise = torch.empty(pixels.shape, dtype=pixels.dtype, device=pixels.device)
    pairs = zip(noise, generators, strict=True)
    if noise.device.type == "cpu":
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda pair: fill(*pair), pairs))
    else:
        # A CPU would take longer to draw the numbers than a GPU takes for a pass.
        on_device = torch.Generator(noise.device)
        for image, generator in pairs:
            fill(image, on_device.manual_seed(_drawn_seed(generator)))
    return noise
