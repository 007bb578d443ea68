"""Resizing whose gradient has one value, also on a GPU."""

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import interpolate

BEYOND = -2.0  # a place where `linear_matrices` has only zeros


def resized(
    pixels: Tensor, size: tuple[int, int], antialias: bool = False, mode: str = "bilinear"
) -> Tensor:
    """Return images, N x C x H x W, in another size, as `interpolate` does it.

    With the mode "bicubic" pixels may leave the range of the image. On a GPU, where the gradient of
    `interpolate` adds up in an order that differs from run to run, two matrix products do the same.
    """
    if pixels.is_cpu:
        return interpolate(pixels, size, mode=mode, antialias=antialias)
    return by_matrices(pixels, size, antialias, mode)


def by_matrices(pixels: Tensor, size: tuple[int, int], antialias: bool, mode: str) -> Tensor:
    """Return the same as `resized`, up to rounding, by a matrix for the rows and the columns."""
    kind = antialias, mode, pixels.device, pixels.dtype
    rows, columns = (
        resize_matrix(own, wanted, *kind)
        for own, wanted in zip(pixels.shape[2:], size, strict=True)
    )
    return products(pixels, rows, columns)


@functools.lru_cache(64)
@torch.inference_mode(False)  # a tensor of inference mode, once kept, would fail in every gradient
def resize_matrix(
    own: int, wanted: int, antialias: bool, mode: str, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """Return the matrix, wanted x own, by which a line of `own` pixels is resized."""
    identity = torch.eye(own, dtype=torch.double)[None, None]
    matrix = interpolate(identity, (wanted, own), mode=mode, antialias=antialias)[0, 0]
    return matrix.to(device, dtype)


def linear_matrices(places: Tensor, own: int, dtype: torch.dtype) -> Tensor:
    """Return the matrices, N x P x own, that interpolate lines of pixels linearly at places.

    Args:
        places: N x P, float64, in pixels; the result is 0 at `BEYOND`.
        own: number of pixels of a line.
    """
    pixels = torch.arange(own, dtype=places.dtype, device=places.device)
    return (1 - (places[..., None] - pixels).abs()).clamp(min=0).to(dtype)


def products(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return images multiplied by matrices from both sides, N x C x P x Q.

    Neither TF32 nor autocast applies, since the pixels would lose bits.

    Args:
        pixels: N x C x H x W.
        rows, columns: P x H and Q x W, or one for each image, N x P x H and N x Q x W.
    """
    return _Products.apply(pixels, rows, columns)


class _Products(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(pixels: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        with float32_products(pixels.device):
            return rows.unsqueeze(-3) @ pixels @ columns.mT.unsqueeze(-3)

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        rows, columns = ctx.saved_tensors
        return products(grad, rows.mT, columns.mT), None, None


@contextlib.contextmanager
def float32_products(device: torch.device) -> Iterator[None]:
    """Compute a device's matrix products in full float32, whatever TF32 and autocast are set to."""
    settings = torch.backends.cuda.matmul
    # The former name can't be read once a program has set the one that torch has since 2.9.
    newer = hasattr(settings, "fp32_precision")
    name, exact = ("fp32_precision", "ieee") if newer else ("allow_tf32", False)
    before = getattr(settings, name)
    setattr(settings, name, exact)
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        setattr(settings, name, before)
