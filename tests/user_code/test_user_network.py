"""Modules of the user's own."""

import hashlib
import json

import pytest
import torch

from suite.networks.classifier import load_model
from suite.networks.protocols import TARGETS

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
def code(tmp_path):
    file = tmp_path / "nets.py"
    file.write_text(NETWORK)
    return file


def test_function_of_a_file_gives_the_network(code, tmp_path):
    model = load_model(f"{code}:tiny")
    assert model.input_size == (3, 32, 32)
    torch.testing.assert_close(model(PIXELS), model.network(PIXELS))
    assert model.digests == {str(code): hashlib.sha256(code.read_bytes()).hexdigest()}

    network = load_model(f"{code}:tiny").network
    torch.save(network.state_dict(), tmp_path / "tiny.pth")
    model = load_model(f"{code}:tiny", checkpoint=tmp_path / "tiny.pth")
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
        load_model(f"{code.parent}/{name}")


@pytest.mark.parametrize("size", ["'large'", "0", "(1, 32, 32)", "(3, 32, 32, 32)"])
def test_input_size_that_is_none(code, size):
    code.write_text(NETWORK.replace("input_size = 32", f"input_size = {size}"))
    with pytest.raises(ValueError, match="input_size can't be"):
        load_model(f"{code}:tiny")


def test_target_with_other_weights_than_the_source_is_no_white_box(run, natural, tmp_path, caplog):
    network = load_model("efficientnet_lite0").network
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


def test_paper_names_the_ten_targets(run, natural, code, monkeypatch):
    code.write_text(NETWORK.replace("Linear(3, 5)", "Linear(3, 1000)"))
    loaded = []
    load_model = load_model

    def record(name, **options):
        loaded.append(name)
        return load_model(f"{code}:tiny")

    monkeypatch.setattr(networks, "load_model", record)
    status, out, _ = run("evaluate --input-dir {i} --arch paper resnet152", i=natural)
    assert status == 0
    assert loaded == list(TARGETS["paper"])
    assert all(name in out for name in TARGETS["paper"])


def test_digest_of_a_module_s_file_stands_in_run_json(run, natural, code, tmp_path):
    code.write_text(NETWORK.replace("Linear(3, 5)", "Linear(3, 1000)"))
    command = "attack_iter --input-dir {i} --output-dir {o} --num-steps 1 --arch {c}:tiny"
    status, _, err = run(command + " --json --branches 2", i=natural, o=tmp_path / "out", c=code)
    assert status == 0, err
    digests = json.loads((tmp_path / "out" / "run.json").read_text())["weights"]
    assert digests == {str(code): hashlib.sha256(code.read_bytes()).hexdigest()}


def test_networks_of_an_ensemble_must_have_the_same_classes(run, natural, code, tmp_path):
    code.write_text(NETWORK.replace("Linear(3, 5)", "Linear(3, 2000)"))
    command = "attack_iter --input-dir {i} --output-dir {o} --arch efficientnet_lite0 {c}:tiny"
    status, _, err = run(command + " --hooks branch", i=natural, o=tmp_path / "out", c=code)
    assert status == 1
    assert "they must agree" in err


def test_labels_beyond_the_classes_are_refused(run, natural, code, tmp_path):
    command = "attack_iter --input-dir {i} --output-dir {o} --arch {c}:tiny"
    status, _, err = run(command, i=natural, o=tmp_path / "out", c=code)
    assert status == 1
    assert "has 5 classes only" in err
