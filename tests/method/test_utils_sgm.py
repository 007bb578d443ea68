import shutil
import subprocess
import sys

import pytest
import torch
import torchvision
from conftest import ROOT, calibrated, input_gradient
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
@pytest.mark.parametrize("gamma", [0.1, 0.5, 1])
def test_gradient_is_the_papers_product(blocks, gamma):
    network = residual_network(blocks)
    pixels = torch.rand(1, 3, 2, 2, dtype=torch.double)
    register_hook_for_branches(network, gamma, (3, 2, 2))
    torch.testing.assert_close(
        input_gradient(network, pixels), closed_form(network, pixels[0], gamma)[None]
    )


def test_gamma_0_with_named_branches_leaves_their_skip_connections_alone():
    network, pixels = residual_network(3), torch.rand(1, 3, 2, 2, dtype=torch.double)
    assert len(register_sgm(network, "", 0, "branch", (3, 2, 2), r"[123]\.f")) == 3
    expected = closed_form(network, pixels[0], 0)[None]
    torch.testing.assert_close(input_gradient(network, pixels), expected)


def test_forward_pass_is_untouched():
    network, pixels = residual_network(3), torch.rand(2, 3, 2, 2, dtype=torch.double)
    before = network(pixels)
    register_hook_for_branches(network, 0.3, (3, 2, 2))
    assert torch.equal(network(pixels), before)


@pytest.mark.parametrize("arch", ["resnet18", "densenet121", "mobilenet_v2"])
def test_gamma_1_and_handles_taken_off_leave_the_plain_gradient_bit_for_bit(arch):
    model = calibrated(torchvision.models.get_model(arch))
    pixels = torch.rand(2, 3, 64, 64)
    plain = input_gradient(model, pixels)
    assert register_sgm(model, arch, 1) == []
    assert torch.equal(input_gradient(model, pixels), plain)
    handles = register_sgm(model, arch, 0.5)
    assert not torch.equal(input_gradient(model, pixels), plain)
    for handle in handles:
        handle.remove()
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
    model = calibrated(torchvision.models.get_model(arch))
    pixels = torch.rand(2, 3, 64, 64)
    handles = register_sgm(model, arch, 0.3, "relu")
    ours = input_gradient(model, pixels)
    for handle in handles:
        handle.remove()
    register_legacy_hooks(model, arch, 0.3)
    legacy = input_gradient(model, pixels)
    assert legacy.sign().equal(ours.sign())
    torch.testing.assert_close(ours, legacy)


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


def test_network_without_branches_is_refused():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))
    plain(torch.rand(1, 3, 8, 8))
    with pytest.raises(ValueError, match="gamma would do nothing"):
        register_hook_for_branches(plain, 0.5, (3, 8, 8))


def test_network_without_relus_has_no_released_hooks():
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


def test_compiled_network_is_refused_and_what_it_compiled_is_not():
    network = torchvision.models.resnet18().eval()
    compiled = torch.compile(network, backend="eager")
    with pytest.raises(ValueError, match=r"register SGM on the network itself \(model._orig_mod\)"):
        register_sgm(compiled, "resnet18", 0.5)
    assert register_sgm(compiled._orig_mod, "resnet18", 0.5)


def test_file_alone_is_enough_for_the_released_hooks(tmp_path):
    shutil.copy(ROOT / "utils_sgm.py", tmp_path)
    code = "import torchvision, utils_sgm as s; net = torchvision.models.resnet18(); "
    code += "print(len(s.register_sgm(net, 'resnet18', 0.5)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "13\n"), done.stderr
