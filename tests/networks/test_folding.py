import pytest
import timm
import torch
import torchvision
from conftest import calibrated, hooked, input_gradient
from torch import nn

from suite.networks.folding import ChannelAffine, fold_batch_norms
from utils_sgm import register_sgm


def norms(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("library", "arch", "unfolded"),
    [
        (torchvision.models.get_model, "resnet18", 0),
        (torchvision.models.get_model, "densenet121", 62),  # those that follow a concatenation
        (timm.create_model, "tf_efficientnet_lite0", 5),  # those after convolutions padded as TF's
        (timm.create_model, "legacy_seresnet18", 0),
        (timm.create_model, "convnext_atto", 0),  # it has none
    ],
)
def test_folded_network_is_equal_and_has_no_batch_norm(library, arch, unfolded):
    model = calibrated(library(arch)).double()
    pixels = torch.rand(2, 3, 64, 64).double()
    logits, gradient = model(pixels), input_gradient(model, pixels)
    assert fold_batch_norms(model, (3, 64, 64)) == 1000
    torch.testing.assert_close(model(pixels), logits)
    torch.testing.assert_close(input_gradient(model, pixels), gradient)
    assert not norms(model)
    assert sum(isinstance(module, ChannelAffine) for module in model.modules()) == unfolded


@pytest.mark.parametrize(
    ("arch", "options"),
    [
        *((arch, {"hooks": "relu"}) for arch in ("resnet18", "resnet50", "densenet121")),
        *((arch, {"hooks": "branch"}) for arch in ("resnet18", "resnet50", "densenet121")),
        ("resnet18", {"branches": r"layer1\.1\.bn2"}),
    ],
)
def test_hooks_on_a_folded_network_give_the_same_gradient(arch, options):
    model = calibrated(torchvision.models.get_model(arch)).double()
    pixels = torch.rand(2, 3, 64, 64).double()
    gradients = []
    for folded in (False, True):
        if folded:
            fold_batch_norms(model, (3, 64, 64))
        with hooked(register_sgm(model, arch, 0.5, input_size=(3, 64, 64), **options)):
            gradients.append(input_gradient(model, pixels))
    assert not torch.equal(gradients[0], input_gradient(model, pixels))
    torch.testing.assert_close(*gradients)


def calibrated_norm():
    norm = nn.BatchNorm2d(4)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)
    return norm.eval().requires_grad_(False)


class Small(nn.Module):
    """A convolution and a batch norm with statistics, put together by `forward`."""

    def __init__(self, forward):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)
        self.hidden = [self.norm]  # which torch does not see
        self.body = forward
        self.eval().requires_grad_(False)

    def forward(self, pixels):
        return self.body(self, pixels).mean((2, 3))


def used_twice(model, pixels):
    features = model.conv(pixels)
    return model.norm(features) + features


def called_twice(model, pixels):
    return model.norm(model.conv(pixels)) + model.norm(model.conv(pixels + 1))


def hidden(model, pixels):
    model.norm(model.conv(pixels))
    return model.hidden[0](model.conv(pixels)) + model.conv.weight.mean()


def changed_in_place(model, pixels):
    return model.norm(model.conv(pixels).mul_(2))


@pytest.mark.parametrize("forward", [used_twice, called_twice, hidden, changed_in_place])
def test_what_can_not_be_folded_stays_equal(forward):
    model, pixels = Small(forward), torch.rand(2, 3, 9, 9)
    logits = model(pixels)
    fold_batch_norms(model, (3, 9, 9))
    torch.testing.assert_close(model(pixels), logits)


def test_gradient_that_a_batch_norm_shares_is_not_changed_in_place():
    def addition(model, pixels):  # whose backward pass hands both operands the same tensor
        features = model.conv(nn.functional.pad(pixels, (1, 1, 1, 1)))
        return features + model.norm(torch.cat([pixels, pixels[:, :1]], 1))

    model, pixels = Small(addition).double(), torch.rand(2, 3, 9, 9).double()
    expected = input_gradient(model, pixels)
    fold_batch_norms(model, (3, 9, 9))
    assert isinstance(model.norm, ChannelAffine)
    torch.testing.assert_close(input_gradient(model, pixels), expected)


def test_network_that_folding_would_change_is_left_as_it_was():
    def through_weights(model, pixels):  # of a convolution that was also called
        return model.norm(model.conv(pixels)) + model.conv.weight.sum()

    model, pixels = Small(through_weights), torch.rand(2, 3, 9, 9)
    logits = model(pixels)
    fold_batch_norms(model, (3, 9, 9))
    assert torch.equal(model(pixels), logits)
    assert norms(model)


def test_training_and_unfrozen_parameters_survive_the_pass():
    model = torchvision.models.get_model("resnet18").eval()
    fold_batch_norms(model, (3, 64, 64))
    assert model.fc.weight.requires_grad
    assert not model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_multiplication_and_addition_stay_in_the_features_dtype(dtype):
    norm = calibrated_norm()
    features = torch.rand(2, 4, 5, 5)
    expected = norm(features)
    leaf = features.to(dtype).requires_grad_()
    result = ChannelAffine(norm)(leaf)
    (gradient,) = torch.autograd.grad(result.sum(), leaf)
    assert (result.dtype, gradient.dtype) == (dtype, dtype)
    torch.testing.assert_close(result.float(), expected, rtol=2e-2, atol=2e-2)


def test_broken_weights_are_not_called_a_network_that_can_not_be_folded(caplog):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), calibrated_norm(), nn.Flatten()).eval()
    network[0].weight.data[0, 0, 0, 0] = torch.nan
    fold_batch_norms(network.requires_grad_(False), (3, 8, 8))
    assert not caplog.text
