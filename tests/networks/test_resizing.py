"""Resizing by matrices, which GPUs do, against torch's own, which CPUs do."""

import pytest
import torch
from torch.nn.functional import interpolate
from torch.overrides import TorchFunctionMode

from suite.networks.resizing import by_matrices, products, resized


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", [(7, 9), (13, 40), (224, 224), (246, 239), (299, 331)])
def test_matrices_resize_as_interpolate_does(size, antialias, mode):
    pixels = torch.rand(2, 3, 24, 31).requires_grad_()
    expected = interpolate(pixels, size, mode=mode, antialias=antialias)
    found = by_matrices(pixels, size, antialias, mode)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad((weights * expected).sum(), pixels)
    (other,) = torch.autograd.grad((weights * found).sum(), pixels)
    torch.testing.assert_close(other, gradient, rtol=1e-4, atol=1e-4)


def test_cpu_takes_torchs_own_bit_for_bit():
    pixels = torch.rand(1, 3, 24, 31)
    expected = interpolate(pixels, (40, 40), mode="bilinear", antialias=True)
    assert torch.equal(resized(pixels, (40, 40), antialias=True), expected)


@pytest.fixture
def other_way():
    before = torch.backends.cuda.matmul.fp32_precision
    yield torch.backends.cuda.matmul
    torch.backends.cuda.matmul.fp32_precision = before


@pytest.fixture
def tf32():
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield torch.backends.cuda.matmul
    torch.backends.cuda.matmul.allow_tf32 = before


def test_neither_tf32_nor_autocast_rounds_pixels_and_both_stay_on_elsewhere(tf32):
    seen, name = [], "fp32_precision" if hasattr(tf32, "fp32_precision") else "allow_tf32"

    class Watched(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function.__name__ in ("matmul", "__matmul__"):
                seen.append(getattr(tf32, name))
            return function(*args, **(kwargs or {}))

    pixels = torch.rand(1, 3, 4, 4, requires_grad=True)
    with Watched():
        products(pixels, torch.rand(5, 4), torch.rand(6, 4)).sum().backward()
    assert set(seen) <= {False, "ieee"}
    assert seen
    assert tf32.allow_tf32
    with torch.autocast("cpu", torch.bfloat16):
        assert by_matrices(pixels, (5, 6), False, "bilinear").dtype == torch.float32


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="it came with torch 2.9")
def test_products_bear_the_other_way_of_setting_tf32(other_way):
    other_way.fp32_precision = "tf32"
    by_matrices(torch.rand(1, 3, 4, 4), (5, 6), False, "bilinear")
    assert other_way.fp32_precision == "tf32"


def test_matrix_first_made_in_inference_mode_serves_gradients():
    pixels = torch.rand(1, 3, 24, 31)
    with torch.inference_mode():  # as in an attack of a user's
        by_matrices(pixels, (17, 19), False, "bilinear")
    leaf = pixels.requires_grad_()
    by_matrices(leaf, (17, 19), False, "bilinear").sum().backward()
    assert leaf.grad.sum() == pytest.approx(3 * 17 * 19, rel=1e-4)
