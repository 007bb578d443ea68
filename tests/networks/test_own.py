"""Checkpoints and modules of the user's own."""

import argparse
import hashlib
import json
import pickle

import pytest
import safetensors.torch
import timm
import torch

from suite import networks
from suite.networks import catalogue

PIXELS = torch.rand(2, 3, 32, 32)
NETWORK = """
from torch import nn

print("ran the file")

def tiny():
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    network.input_size = 32
    return network

def number():
    return 3

def fails():
    return nn.Linear(4)
"""


@pytest.fixture
def resnet(tmp_path):
    """A small network of timm's with 7 classes, and a file of its weights."""
    network = timm.create_model("resnet10t", num_classes=7).eval()
    torch.save(network.state_dict(), tmp_path / "seven.pth")
    return network, tmp_path / "seven.pth"


# Checkpoints


@pytest.mark.parametrize("form", ["plain", "state_dict", "model", "module.", "safetensors"])
def test_checkpoint_in_each_form(resnet, tmp_path, form):
    network, file = resnet
    tensors = network.state_dict()
    if form == "module.":
        options = argparse.Namespace(lr=0.1)
        tensors = {f"module.{key}": tensor for key, tensor in tensors.items()}
        torch.save({"state_dict": tensors, "epoch": 3, "args": options}, file)
    elif form == "safetensors":
        file = tmp_path / "seven.safetensors"
        safetensors.torch.save_file(tensors, file)
    elif form != "plain":
        torch.save({form: tensors, "epoch": 3}, file)
    model = networks.load_model("timm/resnet10t.c3_in1k", checkpoint=file)
    assert model(PIXELS).shape == (2, 7)
    assert all(map(torch.equal, model.network.state_dict().values(), network.state_dict().values()))
    assert model.digests == {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "torchvision/resnet18", "xception"])
def test_number_of_classes_comes_from_the_checkpoint(tmp_path, name):
    network = catalogue.find(name).build(None, 11)
    torch.save(network.state_dict(), tmp_path / "eleven.pth")
    model = networks.load_model(name, checkpoint=tmp_path / "eleven.pth")
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 11)


def test_keys_and_shapes_that_do_not_fit_are_one_error(resnet):
    network, file = resnet
    tensors = network.state_dict()
    tensors["conv1.0.weight"] = torch.zeros(2, 3, 5, 5)
    tensors["head.weight"] = tensors.pop("fc.weight")
    torch.save(tensors, file)
    with pytest.raises(ValueError, match="does not fit this network") as error:
        networks.load_model("timm/resnet10t", checkpoint=file)
    for part in (
        str(file),
        "conv1.0.weight is 2x3x5x5, not 24x3x3x3",
        "missing fc.weight",
        "unexpected head.weight",
    ):
        assert part in str(error.value)


def test_error_lists_ten_keys_at_most(resnet):
    with pytest.raises(ValueError, match=r"and \d+ more") as error:
        networks.load_model("resnet18", checkpoint=resnet[1])
    assert str(error.value).count("; ") == 10  # between ten keys and the number of the others


class RunsCode:
    def __reduce__(self):
        return (print, ("this ran",))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("pickle", "run code"),
        ("old pickle", "run code"),
        ("truncated", "not usable"),
        ("truncated safetensors", "not usable"),
        ("list", "no state dict"),
        ("network", "run code"),
        ("absent", "no such file"),
    ],
)
def test_unusable_checkpoints_are_refused(resnet, tmp_path, capsys, content, reason):
    network, file = resnet
    if content == "pickle":
        torch.save({"state_dict": network.state_dict(), "epoch": RunsCode()}, file)
    elif content == "old pickle":
        file.write_bytes(pickle.dumps({"fc.weight": RunsCode()}))
    elif content == "truncated":
        file.write_bytes(file.read_bytes()[:100_000])
    elif content == "truncated safetensors":
        file = tmp_path / "seven.safetensors"
        safetensors.torch.save_file(network.state_dict(), file)
        file.write_bytes(file.read_bytes()[:100_000])
    elif content == "list":
        torch.save([1, 2], file)
    elif content == "network":
        torch.save(network, file)
    else:
        file.unlink()
    with pytest.raises((ValueError, OSError), match=reason) as error:
        networks.load_model("timm/resnet10t", checkpoint=file)
    assert str(file) in str(error.value)
    assert "this ran" not in capsys.readouterr().out


# Modules from a file


@pytest.fixture
def code(tmp_path):
    file = tmp_path / "nets.py"
    file.write_text(NETWORK)
    return file


def test_function_of_a_file_gives_the_network(code, tmp_path):
    model = networks.load_model(f"{code}:tiny")
    assert model.input_size == (3, 32, 32)
    torch.testing.assert_close(model(PIXELS), model.network(PIXELS))
    assert model.digests == {str(code): hashlib.sha256(code.read_bytes()).hexdigest()}

    network = networks.load_model(f"{code}:tiny").network
    torch.save(network.state_dict(), tmp_path / "tiny.pth")
    model = networks.load_model(f"{code}:tiny", checkpoint=tmp_path / "tiny.pth")
    torch.testing.assert_close(model(PIXELS), network(PIXELS))
    assert list(model.digests) == [str(code), str(tmp_path / "tiny.pth")]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent.py:tiny", "no such file"),
        ("nets.py:absent", "has no function absent"),
        ("nets.py:number", "returns int, not an nn.Module"),
        ("nets.py:fails", "nets.py, line 15: TypeError"),
        ("nets.py", "lacks the function to call"),
        ("broken.py:tiny", "broken.py, line 1: SyntaxError"),
    ],
)
def test_function_that_gives_no_network(code, name, reason):
    (code.parent / "broken.py").write_text("def tiny(:\n")
    with pytest.raises((ValueError, OSError), match=reason):
        networks.load_model(f"{code.parent}/{name}")


@pytest.mark.parametrize("size", ["'large'", "0", "(1, 32, 32)", "(3, 32, 32, 32)"])
def test_input_size_that_is_none(code, size):
    code.write_text(NETWORK.replace("input_size = 32", f"input_size = {size}"))
    with pytest.raises(ValueError, match="input_size can't be"):
        networks.load_model(f"{code}:tiny")


# The scripts


def test_ensemble_takes_each_checkpoint_by_its_name(run, natural, tmp_path):
    thousand = timm.create_model("resnet10t")
    torch.save(thousand.state_dict(), tmp_path / "own.pth")
    command = (
        "attack_iter --input-dir {i} --output-dir {o} --num-steps 1 "
        "--arch efficientnet_lite0 timm/resnet10t --checkpoint timm/resnet10t={t}/own.pth"
    )
    status, _, err = run(command, i=natural, o=tmp_path / "out", t=tmp_path)
    assert status == 0, err
    digests = json.loads((tmp_path / "out" / "run.json").read_text())["weights"]
    own = tmp_path / "own.pth"
    assert digests[str(own)] == hashlib.sha256(own.read_bytes()).hexdigest()
    assert len(digests) == 2


def test_target_with_other_weights_than_the_source_is_no_white_box(run, natural, tmp_path, caplog):
    network = networks.load_model("efficientnet_lite0").network
    torch.save(network.state_dict(), tmp_path / "own.pth")
    attack = "attack_iter --input-dir {i} --output-dir {o} --num-steps 1"
    assert run(attack, i=natural, o=tmp_path / "out")[0] == 0
    command = "evaluate --input-dir {o} --arch efficientnet_lite0"
    assert "white-box" in run(command, o=tmp_path / "out")[2]
    caplog.clear()
    command += " --checkpoint {t}/own.pth"
    status, _, err = run(command, o=tmp_path / "out", t=tmp_path)
    assert status == 0
    assert "white-box" not in err


def test_paper_names_the_ten_targets(run, natural, monkeypatch):
    loaded = []
    load_model = networks.load_model

    def record(name, **options):
        loaded.append(name)
        return load_model("efficientnet_lite1")

    monkeypatch.setattr(networks, "load_model", record)
    status, out, _ = run("evaluate --input-dir {i} --arch paper resnet152", i=natural)
    assert status == 0
    assert loaded == list(networks.PAPER_TARGETS)
    assert all(name in out for name in networks.PAPER_TARGETS)


def test_digest_of_a_module_s_file_stands_in_run_json(run, natural, code, tmp_path):
    code.write_text(NETWORK.replace("Linear(3, 5)", "Linear(3, 1000)"))
    command = "attack_iter --input-dir {i} --output-dir {o} --num-steps 1 --arch {c}:tiny"
    status, _, err = run(command + " --json --branches 2", i=natural, o=tmp_path / "out", c=code)
    assert status == 0, err
    digests = json.loads((tmp_path / "out" / "run.json").read_text())["weights"]
    assert digests == {str(code): hashlib.sha256(code.read_bytes()).hexdigest()}


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


def test_networks_of_an_ensemble_must_have_the_same_classes(run, natural, code, tmp_path):
    command = "attack_iter --input-dir {i} --output-dir {o} --arch efficientnet_lite0 {c}:tiny"
    status, _, err = run(command + " --hooks branch", i=natural, o=tmp_path / "out", c=code)
    assert status == 1
    assert "they must agree" in err


def test_labels_beyond_the_classes_are_refused(run, natural, code, tmp_path):
    command = "attack_iter --input-dir {i} --output-dir {o} --arch {c}:tiny"
    status, _, err = run(command, i=natural, o=tmp_path / "out", c=code)
    assert status == 1
    assert "the source has 5 classes only" in err
