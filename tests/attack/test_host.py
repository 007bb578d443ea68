"""The steps of an attack read nothing back from the device: that would make a GPU wait."""

from dataclasses import replace

import pytest
import torch
import torchvision
from bases import ALL, Small, generators, images, pool
from torch.utils._python_dispatch import TorchDispatchMode

from suite.attack.loop import GradientAttack
from suite.attack.settings import Attack
from utils_sgm import register_sgm


class NoHostReads(TorchDispatchMode):
    """Refuses what copies a number of a tensor to the host: item(), bool(), float()."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("a number was read from the device")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("read", [torch.Tensor.item, bool, float])
def test_reads_are_noticed(read):
    with NoHostReads(), pytest.raises(AssertionError):
        read(torch.rand(1))


@pytest.mark.parametrize("hooks", ["relu", "branch"])
@pytest.mark.parametrize("momentum", [0, 1])
def test_steps_of_pgd_and_mi_read_nothing(hooks, momentum):
    network = torchvision.models.resnet18(num_classes=10).eval().requires_grad_(False)
    register_sgm(network, "resnet18", 0.5, hooks, (3, 32, 32))
    settings = {"di_prob": 1, "ti_kernel": 5, "ensemble": "gradients", "num_steps": 3}
    attack = GradientAttack(Attack(momentum=momentum, **settings), [network, network])
    with NoHostReads():
        attack.perturb(torch.rand(2, 3, 32, 32), torch.tensor([1, 2]), generators("ab"))


@pytest.mark.parametrize("attack", [ALL, replace(ALL, targeted=True, loss="margin")])
def test_steps_of_more_passes_read_nothing(attack):
    attack = GradientAttack(replace(attack, ensemble="gradients"), [Small(), Small(1)], pool())
    natural, labels = images()
    with NoHostReads():
        attack.perturb(natural, labels, classes=torch.tensor([2, 0, 1]))
