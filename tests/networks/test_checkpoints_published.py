"""Robust networks' checkpoints, written as those who published them write them.

MadryLab/robustness 0e24524 (robust-models-transfer's too), locuslab/smoothing e748e70,
RobustBench 5e8980a. What each network answers by itself, to [0, 1] pixels, is what is expected.
"""

import collections
import sys
import types

import pytest
import timm
import torch
from torch import nn

from suite.networks.classifier import load_model

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)
NAME = "timm/resnet10t.c3_in1k"


class Normalise(nn.Module):
    """Keeps its constants in buffers of these names; without names, as smoothing, beside them."""

    def __init__(self, constants, *names):
        super().__init__()
        self.constants = [torch.tensor(each).view(1, 3, 1, 1) for each in constants]
        for name, each in zip(names, self.constants, strict=False):
            self.register_buffer(name, each)

    def forward(self, pixels):
        mean, std = self.constants
        return (pixels - mean) / std


class Attacker(nn.Module):
    """The robustness library's AttackerModel: the network once more, under `attacker`."""

    def __init__(self, network, constants):
        super().__init__()
        self.normalizer = Normalise(constants, "new_mean", "new_std")
        self.model = network
        self.attacker = nn.Module()
        self.attacker.normalize = Normalise(constants, "new_mean", "new_std")
        self.attacker.model = network

    def forward(self, pixels):
        return self.model(self.normalizer(pixels))


def robustness(network):
    whole = nn.DataParallel(Attacker(network, CIFAR))
    optimizer = torch.optim.SGD(whole.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5)
    saved = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), "amp": "N/A"}
    return whole, {"model": whole.state_dict(), "epoch": 90, **saved}


def smoothing(network):
    whole = nn.Sequential(Normalise(IMAGENET), nn.DataParallel(network))
    optimizer = torch.optim.SGD(whole.parameters(), 0.1, momentum=0.9)
    saved = {"optimizer": optimizer.state_dict(), "arch": "resnet50", "epoch": 90}
    return whole, {"state_dict": whole.state_dict(), **saved}


def robustbench(network):
    layers = collections.OrderedDict(normalize=Normalise(CIFAR, "mean", "std"), model=network)
    whole = nn.Sequential(layers)
    return whole, whole.state_dict()


def mu_and_sigma(network):
    """Buffers of the network itself, as RobustBench's wide ResNets have them."""
    whole = nn.Sequential(Normalise(CIFAR), network)
    mean, std = whole[0].constants
    return whole, {"state_dict": network.state_dict() | {"mu": mean, "sigma": std}}


@pytest.mark.parametrize("publish", [robustness, smoothing, robustbench, mu_and_sigma])
def test_published_checkpoint_gives_its_own_logits(tmp_path, caplog, publish):
    caplog.set_level("INFO")
    network = timm.create_model("resnet10t", num_classes=7)
    network(torch.rand(4, 3, 64, 64))  # statistics of its own
    whole, content = publish(network.eval())
    torch.save(content, tmp_path / "robust.pt")
    model = load_model(NAME, checkpoint=tmp_path / "robust.pt")
    pixels = torch.rand(2, *model.input_size)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), whole.eval()(pixels))
    if publish is robustness:
        assert "under model; it is a dict with the keys model, epoch, optimizer" in caplog.text
        assert "beside the network it holds attacker" in caplog.text


def test_functions_that_dill_saved_are_refused_and_the_error_says_what_to_do(tmp_path, monkeypatch):
    def _create_function():
        raise AssertionError("this ran")

    _create_function.__module__, _create_function.__qualname__ = "dill._dill", "_create_function"
    library = types.ModuleType("dill._dill")
    library._create_function = _create_function

    class Schedule:
        def __reduce__(self):
            return _create_function, ()

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "dill", types.ModuleType("dill"))
        patch.setitem(sys.modules, "dill._dill", library)
        torch.save({"model": {"fc.weight": torch.ones(2)}, "f": Schedule()}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"it needs dill\._dill\._create_function\.") as error:
        load_model(NAME, checkpoint=tmp_path / "x.pt")
    assert "docs/networks.md" in str(error.value)
