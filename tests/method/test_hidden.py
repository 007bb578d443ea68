"""Parts of a forward pass that can not be seen as it is watched."""

import pytest
import torch
from blocks import GAMMA, PLUS, Net, additive, classifier
from torch import nn
from torch.utils.checkpoint import checkpoint

from branches import residual_branches
from utils_sgm import register_sgm


class Checkpointed(nn.Module):
    """A block that is computed again in the backward pass, and one that is not."""

    def __init__(self, reentrant):
        super().__init__()
        self.first, self.second = (Net(additive, PLUS) for _ in range(2))
        self.reentrant = reentrant

    def forward(self, z):
        return self.second(checkpoint(self.first, z, use_reentrant=self.reentrant))


def test_part_that_can_not_be_seen_is_warned_of_and_the_rest_is_found(caplog):
    seen = residual_branches(classifier(Checkpointed(False)), (3, 6, 6))
    assert [branch.place for branch in seen] == ["1.first", "1.second"]
    assert not caplog.text
    (branch,) = residual_branches(classifier(Checkpointed(True)), (3, 6, 6))
    assert branch.place == "1.second"
    assert "left out 1 of 2 residual branches, because gradients are off there" in caplog.text
    assert caplog.text.endswith("in: 1.first\n")


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return 2 * z

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def test_branches_after_a_function_of_one_s_own_are_found(caplog):
    network = Net(lambda net, z, join: additive(net, Doubled.apply(z), join), PLUS)
    (branch,) = residual_branches(classifier(network), (3, 6, 6))
    assert branch.module == "1.layers.3"
    assert not caplog.text


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_network_without_gradients_is_refused(off):
    class WhollyOff(nn.Sequential):
        forward = off()(nn.Sequential.forward)

    partly_off = classifier(Net(off()(additive), PLUS))
    for network in (partly_off, WhollyOff(*classifier(nn.Identity()))):
        with pytest.raises(ValueError, match="no gradient goes through this network"):
            register_sgm(network, "mine", GAMMA, input_size=(3, 6, 6))


def test_scripted_part_is_refused_and_leaves_no_hooks():
    network = classifier(Net(additive, PLUS))
    network.append(torch.jit.script(nn.Linear(5, 5).double()))
    with pytest.raises(ValueError, match="a part of this network is scripted or traced"):
        register_sgm(network, "mine", GAMMA, input_size=(3, 6, 6))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
