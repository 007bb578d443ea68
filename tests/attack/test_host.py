"""The steps of an attack read nothing back from the device: that would make a GPU wait."""

import pytest
import torch
from quadratic import generators
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from suite.attack.attacks import make_attack, perturb
from suite.attack.in_front import GradientEnsemble, InputDiversity, TranslationInvariance
from utils_sgm import register_sgm


class NoHostReads(TorchDispatchMode):
    """Refuses what copies a number of a tensor to the host: item(), bool(), float()."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            raise AssertionError("a number was read from the device")
        return function(*args, **(kwargs or {}))


def test_reads_are_noticed():
    with NoHostReads(), pytest.raises(AssertionError):
        torch.rand(1).item()
    with NoHostReads(), pytest.raises(AssertionError):
        bool(torch.rand(1) > 0)


@pytest.mark.parametrize("hooks", ["relu", "branch"])
@pytest.mark.parametrize("momentum", [0, 1])
def test_steps_read_nothing_from_the_device(hooks, momentum):
    import torchvision

    network = torchvision.models.resnet18(num_classes=10).eval().requires_grad_(False)
    register_sgm(network, "resnet18", 0.5, hooks, (3, 32, 32))
    diversity = InputDiversity(1)
    diversity.generators = generators(names="ab")
    ensemble = GradientEnsemble([network, network])
    model = nn.Sequential(TranslationInvariance(5), diversity, ensemble)
    attack = make_attack(model, 16, 2, 3, momentum)
    pixels, labels = torch.rand(2, 3, 32, 32), torch.tensor([1, -1])
    with NoHostReads():
        perturb(attack, pixels, labels, 16)
