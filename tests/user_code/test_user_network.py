"""Networks from a user's file, in the suite and in its scripts."""

import hashlib

import pytest
import torch
from conftest import run_json
from own_networks import PIXELS, load
from small import ATTACK, label

from suite.defences import defended
from suite.networks.classifier import load_model
from suite.networks.protocols import TARGETS


def sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_function_of_a_file_gives_the_network(tmp_path):
    model, file = load(tmp_path, "net = plain"), tmp_path / "net.py"
    assert model.input_size == (3, 16, 16)
    torch.testing.assert_close(model(PIXELS), model.network(PIXELS))
    assert model.digests == {str(file): sha256(file)}

    network = load(tmp_path, "net = plain").network
    torch.nn.init.normal_(network.fc.weight)
    weights = tmp_path / "weights.pth"
    torch.save(network.state_dict(), weights)
    model = load(tmp_path, "net = plain", checkpoint=weights)
    torch.testing.assert_close(model(PIXELS), network(PIXELS))
    assert model.digests == {str(file): sha256(file), str(weights): sha256(weights)}


def test_target_with_other_weights_than_the_source_is_no_white_box(succeed, folder, caplog):
    file = folder / "nets.py"
    torch.save(load_model(f"{file}:ten").network.state_dict(), folder / "own.pth")
    succeed(f"{ATTACK}ten", x=folder)
    assert run_json(folder / "adv")["weights"] == {str(file): sha256(file)}
    command = "evaluate --input-dir {x}/adv --arch {x}/nets.py:ten"
    assert "white-box" in succeed(command, x=folder)[1]
    caplog.clear()
    assert "white-box" not in succeed(f"{command} --checkpoint {{x}}/own.pth", x=folder)[1]


def test_paper_names_the_ten_targets(succeed, folder, monkeypatch):
    loaded = []

    def record(name, **options):
        loaded.append(name)
        return load_model(f"{folder}/nets.py:thousand")

    monkeypatch.setattr(defended, "load_model", record)
    out, _ = succeed("evaluate --input-dir {x}/nat --arch paper resnet152", x=folder)
    assert loaded == list(TARGETS["paper"])
    assert all(name in out for name in TARGETS["paper"])


@pytest.mark.parametrize(
    ("options", "labels", "words"),
    [
        ("{x}/nets.py:many --hooks branch", range(6), "they must agree"),
        ("", [1, 2, 3, 4, 5, 10], "has 10 classes only"),
    ],
)
def test_classes_that_do_not_fit_are_refused(run, folder, options, labels, words):
    label(folder / "nat", labels)
    status, _, err = run(f"{ATTACK}ten {options}", x=folder)
    assert (status, words in err) == (1, True)


def test_weights_that_a_file_draws_are_the_same_in_each_run(tmp_path):
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "def net():\n"
        "    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 256, 10))\n"
        "    network.input_size = 16\n"
        "    return network\n"
    )
    first = load_model(f"{tmp_path}/net.py:net")(PIXELS)
    torch.rand(7)
    assert torch.equal(load_model(f"{tmp_path}/net.py:net")(PIXELS), first)
