"""How visible perturbations are, against formulas."""

import math

import pytest
import torch
import torchvision

from suite.results.visibility import Visibility, mean_visibility


def uniform(level):
    return torch.full((1, 3, 64, 64), level, dtype=torch.uint8)


def noise(images=1):
    return torch.randint(0, 256, (images, 3, 64, 64), dtype=torch.uint8)


def test_l2_and_psnr_are_their_formulas():
    pair = noise(3), noise(3)
    squares_of = ((pair[0].double() - pair[1]) / 255) ** 2
    for measured, squares in zip(Visibility()(*pair), squares_of, strict=True):
        assert measured["l2"] == pytest.approx(squares.sum().sqrt().item(), rel=1e-5)
        assert measured["psnr"] == pytest.approx(-10 * math.log10(squares.mean()), rel=1e-5)


def test_ssim_of_uniform_images_is_that_of_their_means():
    x, y, c = 100 / 255, 140 / 255, 0.01**2
    (measured,) = Visibility()(uniform(100), uniform(140))
    assert measured["ssim"] == pytest.approx((2 * x * y + c) / (x * x + y * y + c), rel=1e-4)


def test_equal_images_are_at_no_distance():
    (measured,) = Visibility()(uniform(9), uniform(9))
    assert (measured["l2"], measured["psnr"]) == (0, math.inf)
    assert measured["ssim"] == pytest.approx(1, abs=1e-5)


def test_mean_of_psnr_is_over_the_images_that_changed():
    changes = {
        "a.png": {"linf": 0, "l2": 0.0, "psnr": math.inf, "ssim": 1.0},
        "b.png": {"linf": 8, "l2": 3.0, "psnr": 30.0, "ssim": 0.5},
    }
    assert mean_visibility(changes) == {"l2": 1.5, "linf": 4, "psnr": 30, "ssim": 0.75}
    del changes["b.png"]
    assert mean_visibility(changes)["psnr"] is None


def test_lpips_is_measured_where_its_weights_are(checkpoints, caplog):
    caplog.set_level("INFO")
    (without,) = Visibility()(uniform(1), uniform(2))
    assert "lpips" not in without
    assert "alexnet-owt-7be5be79.pth" in caplog.text

    state = torchvision.models.alexnet().state_dict()
    torch.save(state, checkpoints / "alexnet-owt-7be5be79.pth")
    measure, image = Visibility(), noise()
    (equal,), (other,) = measure(image, image), measure(image, uniform(128))
    assert equal["lpips"] == 0 < other["lpips"]
