"""Networks from a user's file, in the suite and in its scripts."""

import hashlib
import json

import torch
from own_networks import PIXELS, load
from small import ATTACK, folder, label

from suite.defences import defended
from suite.networks.classifier import load_model
from suite.networks.protocols import TARGETS

__all__ = ["folder"]


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


def test_target_with_other_weights_than_the_source_is_no_white_box(run, folder, caplog):
    torch.save(load_model(f"{folder}/nets.py:ten").network.state_dict(), folder / "own.pth")
    assert run(f"{ATTACK}ten", x=folder)[0] == 0
    command = "evaluate --input-dir {x}/adv --arch {x}/nets.py:ten"
    assert "white-box" in run(command, x=folder)[2]
    caplog.clear()
    status, _, err = run(f"{command} --checkpoint {{x}}/own.pth", x=folder)
    assert (status, "white-box" in err) == (0, False)


def test_paper_names_the_ten_targets(run, folder, monkeypatch):
    loaded = []

    def record(name, **options):
        loaded.append(name)
        return load_model(f"{folder}/nets.py:thousand")

    monkeypatch.setattr(defended, "load_model", record)
    status, out, err = run("evaluate --input-dir {x}/nat --arch paper resnet152", x=folder)
    assert status == 0, err
    assert loaded == list(TARGETS["paper"])
    assert all(name in out for name in TARGETS["paper"])


def test_digest_of_a_user_s_file_stands_in_run_json(run, folder):
    status, _, err = run(f"{ATTACK}ten --json --branches 2", x=folder)
    assert status == 0, err
    file = folder / "nets.py"
    assert json.loads((folder / "adv/run.json").read_text())["weights"] == {str(file): sha256(file)}


def test_networks_of_an_ensemble_must_have_the_same_classes(run, folder):
    status, _, err = run(f"{ATTACK}ten {{x}}/nets.py:many --hooks branch", x=folder)
    assert (status, "they must agree" in err) == (1, True)


def test_labels_beyond_the_classes_are_refused(run, folder):
    label(folder / "nat", [1, 2, 3, 4, 5, 10])
    status, _, err = run(f"{ATTACK}ten", x=folder)
    assert (status, "has 10 classes only" in err) == (1, True)
