import runpy
import sys

import pytest
import torch
import torchvision
from conftest import ROOT, calibrated, hooked, input_gradient
from torch import nn

from utils_sgm import (
    choose_hooks,
    register_hook_for_branches,
    register_hook_for_densenet,
    register_hook_for_resnet,
    register_sgm,
)


class Block(nn.Module):
    """z + tanh(W z), whose Jacobian is 1 + diag(1 - tanh^2) W."""

    def __init__(self):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(12, 12, bias=False), nn.Tanh())

    def forward(self, z):
        return z + self.f(z)


def residual_network(blocks: int) -> nn.Sequential:
    torch.manual_seed(blocks)
    blocks = [Block() for _ in range(blocks)]
    return nn.Sequential(nn.Flatten(), *blocks, nn.Linear(12, 4)).double()


def closed_form(network: nn.Sequential, pixels: torch.Tensor, gamma: float) -> torch.Tensor:
    """The paper's product of (gamma * f' + 1), as matrices."""
    z, jacobian = pixels.flatten(), torch.eye(12, dtype=torch.double)
    for block in network[1:-1]:
        weight = block.f[0].weight.detach()
        f = torch.tanh(weight @ z)
        jacobian = (torch.eye(12) + gamma * torch.diag(1 - f**2) @ weight) @ jacobian
        z = z + f
    weight, bias = network[-1].weight.detach(), network[-1].bias.detach()
    softmax = torch.softmax(weight @ z + bias, 0)
    softmax[0] -= 1
    return (softmax @ weight @ jacobian).view(pixels.shape)


@pytest.mark.parametrize("blocks", [1, 2, 5])
@pytest.mark.parametrize(
    ("gamma", "branches"), [(0.1, None), (0.5, None), (1, None), (0, r"[1-5]\.f")]
)
def test_gradient_is_the_papers_product_and_logits_are_untouched(blocks, gamma, branches):
    network, pixels = residual_network(blocks), torch.rand(1, 3, 2, 2, dtype=torch.double)
    logits = network(pixels)
    handles = register_sgm(network, "", gamma, "branch", (3, 2, 2), branches)
    assert len(handles) == (0 if gamma == 1 else blocks)
    assert torch.equal(network(pixels), logits)
    expected = closed_form(network, pixels, gamma)
    torch.testing.assert_close(input_gradient(network, pixels), expected)


@pytest.mark.parametrize("arch", ["resnet18", "densenet121", "mobilenet_v2"])
def test_gamma_1_and_handles_taken_off_leave_the_plain_gradient_bit_for_bit(arch):
    model = calibrated(torchvision.models.get_model(arch))
    pixels = torch.rand(2, 3, 64, 64)
    plain = input_gradient(model, pixels)
    assert register_sgm(model, arch, 1) == []
    assert torch.equal(input_gradient(model, pixels), plain)
    with hooked(register_sgm(model, arch, 0.5)):
        assert not torch.equal(input_gradient(model, pixels), plain)
    assert torch.equal(input_gradient(model, pixels), plain)


def register_legacy_hooks(model: nn.Module, arch: str, gamma: float) -> None:
    """The released hooks as the paper's authors released them, on torch's own legacy hooks."""
    factor = gamma if arch in ("resnet18", "resnet34") else gamma**0.5
    for name, module in model.named_modules():
        if "relu" not in name or "transition" in name:
            continue
        if "densenet" in arch or "0.relu" not in name:
            module.register_backward_hook(lambda _, grads, __: (factor * grads[0],))
    if "resnet" in arch:
        for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
            for block in layer:
                block.register_backward_hook(lambda _, grads, __: (grads[0] / grads[0].std(),))


@pytest.mark.filterwarnings("ignore:Using a non-full backward hook")
@pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnet101", "densenet121"])
def test_released_hooks_equal_torchs_legacy_hooks(arch):
    """They are equal up to one positive factor, which changes neither sign nor direction."""
    model = calibrated(torchvision.models.get_model(arch)).double()
    pixels = torch.rand(2, 3, 32, 32, dtype=torch.double)
    with hooked(register_sgm(model, arch, 0.3, "relu")):
        ours = input_gradient(model, pixels)
    register_legacy_hooks(model, arch, 0.3)
    legacy = input_gradient(model, pixels)
    assert legacy.sign().equal(ours.sign())
    torch.testing.assert_close(ours / ours.norm(), legacy / legacy.norm())


@pytest.mark.parametrize(("arch", "gamma"), [("resnet152", 0.2), ("densenet201", 0.2)])
def test_gradient_of_the_released_hooks_does_not_underflow(arch, gamma):
    model = calibrated(torchvision.models.get_model(arch))
    pixels = torch.rand(2, 3, 32, 32)
    plain = input_gradient(model, pixels)
    with hooked(register_sgm(model, arch, gamma, "relu")):
        ours = input_gradient(model, pixels)
    assert (ours == 0).sum() <= (plain == 0).sum()
    assert ours.abs().median() > 1e-6 * plain.abs().median()


def test_zero_gradients_do_not_become_nan():
    model = calibrated(torchvision.models.resnet18())
    register_hook_for_resnet(model, "resnet18", 0.5)
    pixels = torch.rand(2, 3, 64, 64, requires_grad=True)
    (0 * model(pixels)).sum().backward()
    assert torch.equal(pixels.grad, torch.zeros_like(pixels))


@pytest.mark.parametrize("gamma", [0, -0.5, 1.5, float("nan")])
@pytest.mark.parametrize(
    "register",
    [
        lambda gamma: register_hook_for_resnet(torchvision.models.resnet18(), "resnet18", gamma),
        lambda gamma: register_hook_for_densenet(nn.ReLU(), "densenet121", gamma),
        lambda gamma: register_hook_for_branches(residual_network(1), gamma, (3, 2, 2)),
    ],
)
def test_gamma_out_of_range_is_refused(register, gamma):
    with pytest.raises(ValueError, match="gamma must be above 0 and at most 1"):
        register(gamma)


def test_network_without_branches_or_released_hooks_is_refused():
    with pytest.raises(ValueError, match="gamma would do nothing"):
        register_hook_for_branches(residual_network(0), 0.5, (3, 2, 2))
    with pytest.raises(ValueError, match="no ReLU"):
        register_hook_for_densenet(residual_network(1), "densenet121", 0.5)
    with pytest.raises(ValueError, match="no released hooks for vgg16"):
        choose_hooks("vgg16", "relu")


@pytest.mark.parametrize(
    ("arch", "kind"),
    [
        ("resnet50", "relu"),
        ("torchvision/resnet50@IMAGENET1K_V2", "relu"),
        ("densenet201", "relu"),
        ("timm/resnet50", "branch"),  # timm calls its activations by other names
        ("senet154", "branch"),
    ],
)
def test_auto_takes_released_hooks_where_the_authors_have_them(arch, kind):
    assert choose_hooks(arch) == kind


@pytest.mark.parametrize("hooks", ["relu", "branch"])
def test_compiled_network_or_part_is_refused_and_what_it_compiled_is_not(hooks):
    network = torchvision.models.resnet18().eval()
    compiled = torch.compile(network, backend="eager")
    with pytest.raises(ValueError, match=r"register SGM on the network itself \(model._orig_mod\)"):
        register_sgm(compiled, "resnet18", 0.5, hooks)
    assert register_sgm(compiled._orig_mod, "resnet18", 0.5, hooks)
    network.layer1[0] = torch.compile(network.layer1[0], backend="eager")
    with pytest.raises(ValueError, match="compile parts by .compile"):
        register_sgm(network, "resnet18", 0.5, hooks)


def test_file_alone_is_enough_for_the_released_hooks(monkeypatch):
    for name in ("branches", "watching"):
        monkeypatch.setitem(sys.modules, name, None)  # as if there were no such file
    alone = runpy.run_path(str(ROOT / "utils_sgm.py"))
    assert len(alone["register_sgm"](torchvision.models.resnet18(), "resnet18", 0.5)) == 4
    with pytest.raises(ModuleNotFoundError):
        alone["register_sgm"](residual_network(1))


def test_file_alone_says_which_files_branch_hooks_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "branches", None)
    with pytest.raises(ModuleNotFoundError, match=r'no branches: "branch" hooks need branches\.py'):
        register_sgm(residual_network(1), gamma=0.5, input_size=(3, 2, 2))
