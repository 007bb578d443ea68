import pytest
import torch
import torchvision
from conftest import calibrated, input_gradient
from torch import nn
from torch.profiler import profile

from branches import residual_branches
from suite.networks.acceleration import DenseBlock, Pointwise, Stem, speed_up
from utils_sgm import register_sgm


def gradient(convolution, pixels, weights):
    pixels = pixels.clone().requires_grad_()
    (convolution(pixels) * weights).sum().backward()
    return pixels.grad


@pytest.mark.parametrize("size", [(32, 32), (31, 40), (7, 9)])
@pytest.mark.parametrize(
    ("kernel", "padding"), [(7, 3), (7, 0), (5, 2), (4, 1), ((7, 5), (3, 1)), ((6, 7), 3)]
)
def test_pass_is_equal_and_gradient_too_up_to_rounding(kernel, padding, size):
    convolution = nn.Conv2d(3, 8, kernel, 2, padding).double().requires_grad_(False)
    pixels = torch.rand(2, 3, *size).double()
    expected = convolution(pixels)
    weights = torch.rand_like(expected)
    expected_gradient = gradient(convolution, pixels, weights)
    speed_up(convolution)
    assert isinstance(convolution, Stem)
    assert torch.equal(convolution(pixels), expected)
    torch.testing.assert_close(gradient(convolution, pixels, weights), expected_gradient)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("images", [2, 16])
@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
def test_convolution_of_single_pixels_stays_in_onednn_on_one_thread(images, groups, one_thread):
    """Of 16 images torch's own way stays there, too: the bits are equal."""
    convolution = nn.Conv2d(64, 32, 1, groups=groups).requires_grad_(False)
    pixels, weights = torch.rand(images, 64, 14, 14), torch.rand(images, 32, 14, 14)
    expected, expected_gradient = convolution(pixels), gradient(convolution, pixels, weights)
    speed_up(convolution)
    assert isinstance(convolution, Pointwise)
    with profile() as operations:
        found, found_gradient = convolution(pixels), gradient(convolution, pixels, weights)
    assert not [each.name for each in operations.events() if "slow_conv" in each.name]
    difference = {"rtol": 0, "atol": 0} if images == 16 else {}
    torch.testing.assert_close(found, expected, **difference)
    torch.testing.assert_close(found_gradient, expected_gradient, **difference)


@pytest.mark.parametrize(("hooks", "gamma"), [("auto", 1), ("relu", 0.5), ("branch", 0.5)])
@pytest.mark.parametrize(("arch", "blocks"), [("resnet18", 0), ("densenet121", 4)])
def test_network_that_is_sped_up_keeps_its_logits_and_gradient(arch, blocks, hooks, gamma):
    model = calibrated(torchvision.models.get_model(arch)).double()
    register_sgm(model, arch, gamma, hooks, (3, 64, 64))
    pixels = torch.rand(2, 3, 64, 64).double()
    logits, expected = model(pixels), input_gradient(model, pixels)
    state = list(model.state_dict())
    speed_up(model)
    kinds = [type(module) for module in model.modules()]
    assert (kinds.count(Stem), kinds.count(DenseBlock)) == (1, blocks)
    assert torch.equal(model(pixels), logits)
    torch.testing.assert_close(input_gradient(model, pixels), expected)
    assert list(model.state_dict()) == state


def test_branches_of_a_densenet_that_was_sped_up_are_the_same():
    model = torchvision.models.get_model("densenet121").eval()
    expected = [branch.module for branch in residual_branches(model)]
    speed_up(model)
    assert [branch.module for branch in residual_branches(model)] == expected


def test_gradient_under_autocast_is_the_convolutions_within_bfloat16():
    convolution = nn.Conv2d(3, 8, 7, 2, 3).requires_grad_(False)
    pixels, weights = torch.rand(2, 3, 32, 32), torch.rand(2, 8, 16, 16)
    expected = gradient(convolution, pixels, weights)
    speed_up(convolution)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradient(convolution, pixels, weights)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.02 * expected.abs().max()


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(8, 8, 1, 2),
        nn.Conv2d(8, 8, 1, padding=1),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1)),
        nn.Conv2d(3, 8, 3, 2),
        nn.Conv2d(3, 8, 7),
        nn.Conv2d(3, 8, 7, (2, 1)),
        nn.Conv2d(8, 8, 7, 2),
        nn.Conv2d(3, 3, 7, 2, groups=3),
        nn.Conv2d(3, 8, 7, 2, dilation=2),
        nn.Conv2d(3, 8, 7, 2, 3, padding_mode="reflect"),
        nn.Conv2d(3, 8, 7, 2, "valid"),
        nn.utils.spectral_norm(nn.Conv2d(3, 8, 7, 2)),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 7, 2)),
    ],
)
def test_other_convolutions_are_left_alone(convolution):
    speed_up(convolution)
    assert not isinstance(convolution, Stem | Pointwise)


def test_weights_that_a_hook_changes_are_not_kept_in_bfloat16():
    layers = [nn.utils.spectral_norm(nn.Linear(4, 4)), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3)]
    for layer in layers[1:]:
        layer.register_forward_pre_hook(lambda module, args: module.weight.data.fill_(5))
    speed_up(nn.Sequential(*layers), bfloat16=True)
    assert not [name for layer in layers for name, _ in layer.named_buffers() if "bfloat16" in name]
