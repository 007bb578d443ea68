"""Commands and folders of before: the authors' own, and those of earlier versions."""

import hashlib
import json
from importlib.metadata import version

import pytest
import torch
import torchvision
from conftest import SCRIPTS, calibrated, labels_of, pixels_of
from small import ATTACK, folder

from suite.attack.settings import DEFAULTS
from suite.running import runs

__all__ = ["folder"]


@pytest.mark.parametrize(
    ("arch", "file", "command"),
    [
        (
            "densenet201",
            "densenet201-5750cbb1e.pth",
            "python attack_iter.py --input-dir=nat_images --output-dir=adv_images "
            "--arch=densenet201 --gamma=0.5 --epsilon=16 --num-steps=10 --step-size=2",
        ),
        (
            "resnet152",
            "resnet152-b121ed2d.pth",
            "python attack_iter.py --input_dir=nat_images --output_dir=adv_images "
            "--arch=resnet152 --gamma=0.2 --num_steps=3 --step_size=-1 --momentum=1.0 "
            "--batch-size=1 --no-cuda --print-freq=1",
        ),
    ],
)
def test_commands_of_the_original_readme_run_unchanged(
    run, tmp_path, natural, monkeypatch, arch, file, command
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    network = calibrated(torchvision.models.get_model(arch))
    *_, weight, _ = network.parameters()
    weight /= 100  # or it would be so sure of its answer that cross-entropy has no gradient
    torch.save(network.state_dict(), checkpoints / file)
    (tmp_path / "nat_images").mkdir()
    name = min(labels_of(natural))
    (tmp_path / "nat_images" / name).write_bytes((natural / name).read_bytes())

    status, out, err = run(command.replace("python attack_iter.py", "attack_iter"))
    assert status == 0, err
    assert "1 images have no label" in err
    assert "images                1\n" in out
    made = json.loads((tmp_path / "adv_images" / "run.json").read_text())
    assert made["source"] == arch
    assert made["hooks"] == ["relu"]
    digest = hashlib.sha256((checkpoints / file).read_bytes()).hexdigest()
    assert made["weights"] == {file: digest}
    assert made["versions"]["torch"] == version("torch")
    difference = pixels_of(tmp_path / "adv_images")[name] - pixels_of(tmp_path / "nat_images")[name]
    assert abs(difference).max() == made["largest_perturbation"] == 16


LATER = DEFAULTS | {"through_defence": False}


@pytest.mark.parametrize("later", [{}, LATER], ids=["first version", "later version"])
def test_folder_of_an_earlier_version_is_resumed(run, folder, later):
    """Its run.json has these options; one that came or went must not make it another run."""
    assert run(f"{ATTACK}ten", x=folder)[0] == 0
    made = folder / "adv" / "run.json"
    run_json = json.loads(made.read_text())
    before = {
        "input_dir": f"{folder}/nat",
        "output_dir": f"{folder}/adv",
        "arch": [f"{folder}/nets.py:ten"],
        "checkpoint": None,
        "ensemble": "logits",
        "epsilon": 16.0,
        "num_steps": 2,
        "step_size": 2.0,
        "momentum": 0.0,
        "di_prob": 0.0,
        "di_resize": 1.1,
        "ti_kernel": 1,
        "ti_sigma": 3.0,
        "rand_init": False,
        "targeted": False,
        "seed": 0,
        "gamma": [1.0],
        "hooks": "auto",
        "branches": None,
        "list_branches": False,
        "overwrite": False,
        "on_error": "stop",
        "batch_size": None,
        "workers": None,
        "precision": "tf32",
        "no_cuda": False,
        "print_freq": 10,
        "json": False,
    }
    made.write_text(json.dumps(run_json | {"options": later | before}))
    (folder / "adv" / "0.png").unlink()
    status, _, err = run(f"{ATTACK}ten", x=folder)
    assert status == 0, err


def test_options_that_earlier_versions_lack_do_by_default_what_those_did(tmp_path):
    parser = SCRIPTS["attack_iter"].get_parser()
    assert {name: parser.get_default(name) for name in DEFAULTS} == DEFAULTS
    (tmp_path / "run.json").write_text(json.dumps({"options": {"epsilon": 8.0}}))
    earlier = runs.read_run(tmp_path, DEFAULTS)
    options = DEFAULTS | {"epsilon": 8.0}
    assert runs.run_settings(earlier) == runs.run_settings({"options": options})
    for name in DEFAULTS:
        other = {"options": options | {name: "other"}}
        assert runs.run_settings(earlier) != runs.run_settings(other)
