"""Steps on a GPU that is not there: it never waits, and its kernels are few."""

from dataclasses import replace

import pytest
import torch
from bases import ALL, BASES, MI, generators, pool
from fake_gpu import DEVICE
from torch import nn

from suite.attack.loop import GradientAttack
from suite.attack.pool import Pool
from suite.attack.settings import Attack
from suite.networks.classifier import load_model
from suite.running import devices
from utils_sgm import register_sgm

ATTACKS = BASES | {
    "PGD": Attack(),
    "PGD from a random start, targeted": Attack(rand_init=True, targeted=True, loss="logit"),
    "TI-DI-MI by the margin": replace(MI, ti_kernel=5, di_prob=1, loss="margin"),
    "DI-EOT": replace(MI, di_prob=0.5, eot=2),
    "gradients": replace(MI, ensemble="gradients"),
    "all": replace(ALL, variance=1, scales=1),
}
# One for each of these is drawn per image, from a generator that begins anew.
DRAWN = {"uniform_", "normal_"}


def uploaded(*tensors):
    return [devices.to_device(tensor, DEVICE) for tensor in tensors]


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.branch, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 4)
        self.eval().requires_grad_(False)

    def forward(self, pixels):
        features = self.stem(pixels)
        return self.head(torch.relu(features + self.branch(features)).mean((2, 3)))


def events_of(gpu, attack, images, networks):
    """Attack so many images of 30 x 34 pixels, and return what that caused."""
    natural, labels = torch.rand(images, 3, 30, 34), torch.arange(images) % 4
    mixed = pool()
    pixels = torch.zeros(len(mixed.labels), 3, 30, 34, dtype=torch.uint8)
    loop = GradientAttack(attack, networks, Pool(*uploaded(pixels, mixed.labels)))
    arguments = uploaded(natural, labels)
    gpu.events.clear()
    loop.perturb(*arguments, generators(map(str, range(images))))
    return list(gpu.events)


def kernels(events):
    return [event.name for event in events if event.kind == "kernel" and event.name not in DRAWN]


@pytest.mark.parametrize("sources", [1, 2])
@pytest.mark.parametrize("name", ATTACKS)
def test_attack_makes_no_gpu_wait_and_has_no_kernel_of_an_image(gpu, name, sources):
    networks = [Small().to(DEVICE) for _ in range(sources)]
    for network in networks:
        register_sgm(network, "", 0.5, input_size=(3, 30, 34))
    attack = replace(ATTACKS[name], num_steps=2)
    few, many = (events_of(gpu, attack, images, networks) for images in (2, 5))
    assert len(kernels(many)) == len(kernels(few)) > 10
    others = [event for event in many if event.kind not in ("kernel", "upload")]
    assert not others
    # Numbers that were drawn may be copied, but no images.
    assert all(event.size < 5 * 3 * 30 * 34 for event in many if event.kind == "upload")


@pytest.fixture
def network_of():
    """Return networks of torchvision with random weights, accelerated, on the device."""

    def network_of(arch, precision="tf32"):
        network = load_model(f"torchvision/{arch}", pretrained=False)
        return network.accelerate(precision).to(DEVICE)

    return network_of


def step_of(gpu, network, **settings):
    """Return the names of the kernels of an attack of one step on 4 images."""
    loop = GradientAttack(Attack(num_steps=1, **settings), [network])
    arguments = uploaded(torch.zeros(4, 3, 224, 224), torch.arange(4))
    gpu.events.clear()
    loop.perturb(*arguments)
    return kernels(gpu.events)


@pytest.mark.parametrize(("arch", "hooks"), [("resnet152", 43), ("densenet201", 98)])
def test_sgm_costs_hardly_a_kernel(gpu, network_of, arch, hooks):
    network = network_of(arch)
    plain = step_of(gpu, network)
    assert len(register_sgm(network.network, arch, 0.5, "relu")) == hooks
    assert len(step_of(gpu, network)) <= 1.06 * len(plain)


def test_formula_costs_as_little_as_the_released_hooks(gpu, network_of):
    network = network_of("resnet50")
    plain = step_of(gpu, network)
    register_sgm(network.network, "resnet50", 0.5, "branch")
    assert len(step_of(gpu, network)) <= 1.06 * len(plain)


def test_di_costs_few_kernels(gpu, network_of):
    network = network_of("resnet18")
    plain = step_of(gpu, network, momentum=1)
    assert len(step_of(gpu, network, momentum=1, di_prob=1)) <= len(plain) + 30


@pytest.mark.parametrize(("arch", "most"), [("resnet50", 9), ("densenet121", 9), ("vit_b_16", 49)])
def test_weights_are_not_cast_in_each_pass_of_bfloat16(gpu, network_of, arch, most):
    """A vision transformer casts those of its 12 attentions' inputs, which are no layer's."""
    assert step_of(gpu, network_of(arch, "bf16")).count("_to_copy") <= most
