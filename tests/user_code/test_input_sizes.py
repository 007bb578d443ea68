"""What `input_size` is found in a user's network, and inside its wrappers."""

import pytest
import torch
from own_networks import load
from torch import nn
from torch.optim.swa_utils import AveragedModel

from suite.networks.classifier import load_model
from suite.user_code.input_sizes import input_size

pytestmark = pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated


class Tiny(nn.Module):
    def __init__(self, size=32):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
        if size is not None:
            self.input_size = size

    def forward(self, pixels):
        return self.fc(self.conv(pixels).mean((2, 3)))


EXAMPLE, NORM = torch.rand(1, 3, 32, 32), nn.BatchNorm2d(3, affine=False)  # which has buffers alone
WRAPPERS = {
    "none": lambda network: network,
    "DataParallel": nn.DataParallel,
    "DataParallel twice": lambda network: nn.DataParallel(nn.DataParallel(network)),
    "averaged": AveragedModel,
    "compiled": torch.compile,
    "scripted": torch.jit.script,
    "traced": lambda network: torch.jit.trace(network, EXAMPLE),
    "exported": lambda network: torch.export.export(network, (EXAMPLE,)).module(),
    "with a normaliser": lambda network: nn.Sequential(NORM, network),
    "of all": lambda network: nn.DataParallel(nn.Sequential(NORM, torch.compile(network))),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_size_is_found_through_wrappers(wrap, caplog):
    caplog.set_level("INFO")
    assert input_size(wrap(Tiny())) == (3, 32, 32)
    assert "assumed" not in caplog.text


@pytest.mark.parametrize(
    "network",
    [
        Tiny(None),
        nn.DataParallel(Tiny(None)),
        torch.fx.symbolic_trace(Tiny()),
        nn.Sequential(nn.Flatten(), nn.Linear(7, 5)),
        nn.Sequential(Tiny(32), Tiny(64)),  # whose is it?
        nn.Sequential(nn.Flatten(2), nn.LSTM(49, 5)),  # there it is a number of features
    ],
    ids=lambda network: type(network).__name__,
)
def test_size_that_is_assumed_is_said(network, caplog):
    caplog.set_level("INFO")
    assert input_size(network) == (3, 224, 224)
    assert f"{type(network).__name__} has no attribute input_size: 3x224x224 is" in caplog.text


def test_size_that_is_there_is_not_said(caplog):
    caplog.set_level("INFO")
    input_size(Tiny())
    input_size(load_model("torchvision/resnet18", pretrained=False))
    assert caplog.text == ""


@pytest.mark.parametrize(
    "size", [32, (32, 32), [3, 32, 32], torch.Size([32, 32]), torch.arange(33).numpy()[32]]
)
def test_size_in_each_form(size):
    assert input_size(nn.DataParallel(Tiny(size))) == (3, 32, 32)


@pytest.mark.parametrize("size", ["large", 0, (1, 32, 32), (3, 32, 32, 32), (32.0, 32.0), -32, ()])
def test_size_that_is_none_is_named_with_the_network(size):
    with pytest.raises(ValueError, match="Tiny: input_size can't be"):
        input_size(Tiny(size))


@pytest.mark.parametrize(
    "wrap", ["nn.DataParallel(net)", "torch.fx.symbolic_trace(net)", "torch.jit.trace(net, pixels)"]
)
def test_network_from_a_file_is_attacked_at_its_size_or_the_log_says_it(tmp_path, caplog, wrap):
    caplog.set_level("INFO")
    text = (
        f"def net():\n    net, pixels = Plain().eval(), torch.rand(1, 3, 16, 16)\n    return {wrap}"
    )
    model = load(tmp_path, text)
    if "symbolic" in wrap:
        assert f"{tmp_path}/net.py:net has no attribute input_size: 3x224x224 is" in caplog.text
    else:
        assert model.input_size == (3, 16, 16)
