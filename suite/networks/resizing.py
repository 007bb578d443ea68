"""Resizing whose gradient has one value, also on a GPU."""

import functools

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def resized(
    pixels: Tensor, size: tuple[int, int], antialias: bool = False, mode: str = "bilinear"
) -> Tensor:
    """Return images, N x C x H x W, in another size, as `interpolate` does it.

    With the mode "bicubic" pixels may leave the range of the image. On a GPU, where the gradient of
    `interpolate` adds up in an order that differs from run to run, two matrix products do the same,
    in float64, which TF32 does not round.
    """
    if pixels.device.type == "cpu":
        return interpolate(pixels, size, mode=mode, antialias=antialias)
    return by_matrices(pixels, size, antialias, mode)


def by_matrices(pixels: Tensor, size: tuple[int, int], antialias: bool, mode: str) -> Tensor:
    """Return the same as `resized`, up to rounding, by a matrix for the rows and the columns."""
    rows, columns = (
        _matrix(own, wanted, antialias, mode, pixels.device)
        for own, wanted in zip(pixels.shape[2:], size, strict=True)
    )
    return (rows @ pixels.double() @ columns.T).to(pixels.dtype)


@functools.lru_cache(256)  # DI has a few dozen sizes
@torch.inference_mode(False)  # a tensor of inference mode, once kept, would fail in every gradient
def _matrix(own: int, wanted: int, antialias: bool, mode: str, device: torch.device) -> Tensor:
    """Return what resizing a line of `own` pixels multiplies it by, wanted x own."""
    identity = torch.eye(own, dtype=torch.double)[None, None]
    return interpolate(identity, (wanted, own), mode=mode, antialias=antialias)[0, 0].to(device)
