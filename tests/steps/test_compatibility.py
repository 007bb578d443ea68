"""Commands and folders of before: the authors' own, and those of earlier versions."""

import hashlib
import json
from importlib.metadata import version

import pytest
import torch
import torchvision
from conftest import SCRIPTS, calibrated, labels_of, pixels_of, run_json
from small import ATTACK

from suite.attack.settings import DEFAULTS
from suite.running import runs


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
    succeed, tmp_path, natural, checkpoints, monkeypatch, arch, file, command
):
    monkeypatch.chdir(tmp_path)
    network = calibrated(torchvision.models.get_model(arch))
    *_, weight, _ = network.parameters()
    weight /= 100  # or it would be so sure of its answer that cross-entropy has no gradient
    torch.save(network.state_dict(), checkpoints / file)
    (tmp_path / "nat_images").mkdir()
    name = min(labels_of(natural))
    (tmp_path / "nat_images" / name).write_bytes((natural / name).read_bytes())

    out, err = succeed(command.replace("python attack_iter.py", "attack_iter"))
    assert "1 images have no label" in err
    assert "images                1\n" in out
    made = run_json(tmp_path / "adv_images")
    assert made["source"] == arch
    assert made["hooks"] == ["relu"]
    digest = hashlib.sha256((checkpoints / file).read_bytes()).hexdigest()
    assert made["weights"] == {file: digest}
    assert made["versions"]["torch"] == version("torch")
    difference = pixels_of(tmp_path / "adv_images")[name] - pixels_of(tmp_path / "nat_images")[name]
    assert abs(difference).max() == made["largest_perturbation"] == 16


FIRST = """{
"checkpoint": null, "ensemble": "logits", "epsilon": 16.0, "num_steps": 2, "step_size": 2.0,
"momentum": 0.0, "di_prob": 0.0, "di_resize": 1.1, "ti_kernel": 1, "ti_sigma": 3.0,
"rand_init": false, "targeted": false, "seed": 0, "gamma": [1.0], "hooks": "auto",
"branches": null, "list_branches": false, "overwrite": false, "on_error": "stop",
"batch_size": null, "workers": null, "precision": "tf32", "no_cuda": false, "print_freq": 10,
"json": false
}"""
LATER = DEFAULTS | {"through_defence": False}


@pytest.mark.parametrize("later", [{}, LATER], ids=["first version", "later version"])
def test_folder_of_an_earlier_version_is_resumed(succeed, folder, later):
    """Its run.json has these options; one that came or went must not make it another run."""
    succeed(f"{ATTACK}ten", x=folder)
    made = run_json(folder / "adv")
    paths = {name: made["options"][name] for name in ("input_dir", "output_dir", "arch")}
    assert paths["arch"] == [f"{folder}/nets.py:ten"]
    made["options"] = later | json.loads(FIRST) | paths
    (folder / "adv" / "run.json").write_text(json.dumps(made))
    (folder / "adv" / "0.png").unlink()
    succeed(f"{ATTACK}ten", x=folder)


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
