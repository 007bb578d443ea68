"""Input transformations against other libraries' implementations of them."""

import itertools

import numpy as np
import PIL.Image
import pytest
import scipy.fft
import torch

from suite.defences.inputs import BitDepth, FeatureDistillation, Jpeg

ALL = [Jpeg(75), BitDepth(3), FeatureDistillation()]


def pictures(height=24, width=40, number=3):
    """Return 8-bit pixels in [0, 1] that are smooth but for some noise, as pictures are."""
    coarse = torch.rand(number, 3, 4, 6)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    noisy = smooth + 0.05 * torch.randn_like(smooth)
    return (noisy.clamp(0, 1) * 255).round() / 255


def levels(image):
    return (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)


@pytest.mark.parametrize("quality", [1, 75, 100])
def test_jpeg_is_pillow_s_with_halved_chroma(tmp_path, quality):
    pixels = pictures()
    for image, ours in zip(pixels, Jpeg(quality)(pixels), strict=True):
        file = tmp_path / "image.jpg"
        PIL.Image.fromarray(levels(image)).save(file, quality=quality, subsampling="4:2:0")
        assert (levels(ours) == np.asarray(PIL.Image.open(file))).all()


def test_jpeg_rounds_what_is_between_two_levels():
    pixels = pictures()
    between = (pixels + 0.4 / 255).clamp(0, 1)
    assert Jpeg(75)(between).equal(Jpeg(75)(pixels))


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_bits_are_the_nearest_of_as_many_levels(bits):
    pixels, steps = pictures(), 2**bits - 1
    expected = np.rint(pixels.numpy().astype(float) * steps) / steps
    np.testing.assert_allclose(BitDepth(bits)(pixels).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("size", [(24, 40), (21, 34)])
def test_feature_distillation_quantises_each_block_s_cosines(size):
    pixels, steps = pictures(*size), np.full((8, 8), 30.0)
    steps[:4, :4] = 25
    margin = [(0, -length % 8) for length in size]
    whole = np.pad(pixels.numpy().astype(float) * 255, [(0, 0), (0, 0), *margin], mode="edge")
    expected = np.empty_like(whole)
    for top, left in itertools.product(*(range(0, length, 8) for length in size)):
        block = np.s_[:, :, top : top + 8, left : left + 8]
        cosines = scipy.fft.dctn(whole[block], axes=(2, 3), norm="ortho")
        kept = np.floor(cosines / steps + 0.5 + 1e-6) * steps
        expected[block] = scipy.fft.idctn(kept, axes=(2, 3), norm="ortho")
    expected = (expected / 255).clip(0, 1)[:, :, : size[0], : size[1]]
    ours = FeatureDistillation()(pixels).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert abs(ours - pixels.numpy()).max() > 0.02


@pytest.mark.parametrize("defence", ALL)
def test_image_alone_equals_itself_in_a_batch(defence):
    pixels = pictures(number=4)
    before = pixels.clone()
    assert torch.cat([defence(image[None]) for image in pixels]).equal(defence(pixels))
    assert pixels.equal(before)


def test_grey_blocks_between_two_steps_do_not_depend_on_the_batch():
    """Their first cosine is 12.5 steps; rounding errors would send it up or down."""
    grey = torch.full((5, 3, 8, 48), 12.5 * 25 / 8 / 255)  # no level of 8 bits: an average of some
    together = FeatureDistillation()(grey)
    assert together.unique().numel() == 1
    assert FeatureDistillation()(grey[:1]).equal(together[:1])


@pytest.mark.parametrize("defence", ALL)
def test_gradient_goes_straight_through(defence):
    pixels, weights = pictures().requires_grad_(), torch.randn(3, 3, 24, 40)
    (defence(pixels) * weights).sum().backward()
    assert pixels.grad.equal(weights)
