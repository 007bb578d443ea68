"""Checkpoints of the user's own."""

import argparse
import hashlib
import json

import pytest
import timm
import torch
from small import ATTACK
from tiny_checkpoints import prefixed

from suite.networks import catalogue
from suite.networks.classifier import load_model

PIXELS = torch.rand(2, 3, 32, 32)


@pytest.fixture
def resnet(tmp_path):
    """A small network of timm's with 7 classes, and a file of its weights."""
    network = timm.create_model("resnet10t", num_classes=7).eval()
    torch.save(network.state_dict(), tmp_path / "seven.pth")
    return network, tmp_path / "seven.pth"


def test_checkpoint_as_training_scripts_leave_it(resnet):
    network, file = resnet
    tensors = prefixed(network, "module.")
    torch.save({"state_dict": tensors, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, file)
    model = load_model("timm/resnet10t.c3_in1k", checkpoint=file)
    assert model(PIXELS).shape == (2, 7)
    assert all(map(torch.equal, model.network.state_dict().values(), network.state_dict().values()))
    assert model.digests == {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "torchvision/resnet18", "xception"])
def test_number_of_classes_comes_from_the_checkpoint(tmp_path, name):
    network = catalogue.find_network(name).build(None, 11)
    torch.save(network.state_dict(), tmp_path / "eleven.pth")
    model = load_model(name, checkpoint=tmp_path / "eleven.pth")
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 11)


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("torchvision/googlenet", "aux"),
        ("torchvision/inception_v3", "AuxLogits"),
        ("timm/inception_v3", "AuxLogits"),
        ("inceptionv3", "AuxLogits"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_auxiliary_heads_may_be_absent_or_of_other_classes(tmp_path, name, heads):
    whole = catalogue.find_network(name).build(None, 7).eval()
    pixels = torch.rand(1, 3, 299, 299)
    for keep in ("without", "of others"):
        state = {k: v for k, v in whole.state_dict().items() if not k.startswith(heads)}
        if keep == "of others":
            others = {"aux1.fc2", "aux2.fc2"} if heads == "aux" else {"AuxLogits.fc"}
            state |= {f"{other}.bias": torch.zeros(1000) for other in others}
        torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "own.pth")
        model = load_model(name, checkpoint=tmp_path / "own.pth")
        assert torch.equal(model.network(pixels), whole(pixels))


def test_auxiliary_head_of_a_network_of_the_user_s_own_may_be_needed(tmp_path):
    text = """
from torch import nn
class net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.aux1 = nn.Linear(3, 5), nn.Sequential(nn.Linear(3, 5))
    def forward(self, pixels):
        return self.fc(pixels.mean((2, 3))) + self.aux1(pixels.mean((2, 3)))
"""
    (tmp_path / "net.py").write_text(text)
    state = {"fc.weight": torch.rand(5, 3), "fc.bias": torch.rand(5)}
    torch.save(state, tmp_path / "own.pth")
    with pytest.raises(ValueError, match=r"missing aux1.0.weight, aux1.0.bias"):
        load_model(f"{tmp_path}/net.py:net", checkpoint=tmp_path / "own.pth")


def test_keys_and_shapes_that_do_not_fit_are_one_error(resnet):
    network, file = resnet
    tensors = network.state_dict()
    tensors["conv1.0.weight"] = torch.zeros(2, 3, 5, 5)
    tensors["head.weight"] = tensors.pop("fc.weight")
    torch.save(tensors, file)
    with pytest.raises(ValueError, match="does not fit this network") as error:
        load_model("timm/resnet10t", checkpoint=file)
    for part in (
        str(file),
        "conv1.0.weight is 2x3x5x5, not 24x3x3x3",
        "missing fc.weight",
        "unexpected head.weight",
    ):
        assert part in str(error.value)


def test_ensemble_takes_each_checkpoint_by_its_name(succeed, folder):
    own = folder / "own.pth"
    torch.save(timm.create_model("resnet10t").state_dict(), own)
    command = f"{ATTACK}thousand timm/resnet10t --checkpoint timm/resnet10t={own}"
    succeed(command, x=folder)
    digests = json.loads((folder / "adv" / "run.json").read_text())["weights"]
    assert digests[str(own)] == hashlib.sha256(own.read_bytes()).hexdigest()
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("own.pth", "each file needs its network's name"),
        ("resnet18=own.pth", "each file needs its network's name"),
        ("resnet34=a.pth resnet34=b.pth", "A network has one file"),
    ],
)
def test_checkpoint_of_an_unclear_network_is_refused(run, tmp_path, given, reason):
    for command in (
        "attack_iter --input-dir {i} --output-dir {i}/o",
        "evaluate --input-dir {i}",
        "select_images --input-dir {i} --output-dir {i}/o",
    ):
        command += f" --arch resnet34 resnet50 --checkpoint {given}"
        status, _, err = run(command, i=tmp_path)
        assert status == 2
        assert reason in err
