import csv
import hashlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
from importlib.metadata import version

import PIL.Image
import pytest
import torch
import torchvision
from conftest import ROOT, calibrated, labels_of, pixels_of

from suite import results
from suite.images import pictures


def shell(command, cwd, **environment):
    words = shlex.split(command)
    words = [sys.executable, str(ROOT / words[1]), *words[2:]]
    return subprocess.run(
        words, cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )


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
def test_commands_of_the_original_readme_run_unchanged(tmp_path, natural, arch, file, command):
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    network = calibrated(torchvision.models.get_model(arch))
    torch.save(network.state_dict(), checkpoints / file)
    (tmp_path / "nat_images").mkdir()
    name = min(labels_of(natural))
    (tmp_path / "nat_images" / name).write_bytes((natural / name).read_bytes())

    done = shell(command, tmp_path, TORCH_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "1 images have no label" in done.stderr
    assert "images                1\n" in done.stdout
    run = json.loads((tmp_path / "adv_images" / "run.json").read_text())
    assert run["source"] == arch
    assert run["hooks"] == ["relu"]
    digest = hashlib.sha256((checkpoints / file).read_bytes()).hexdigest()
    assert run["weights"] == {file: digest}
    assert run["versions"]["torch"] == version("torch")
    difference = pixels_of(tmp_path / "adv_images")[name] - pixels_of(tmp_path / "nat_images")[name]
    assert abs(difference).max() == run["largest_perturbation"] == 16


@pytest.mark.parametrize("script", ["attack_iter", "select_images", "evaluate"])
def test_help_and_wrong_arguments_are_answered_before_torch_is_imported(script):
    code = f"import sys, {script}; {script}.get_parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    assert shell(f"python {script}.py --help", ROOT).returncode == 0
    assert shell(f"python {script}.py --no-such-option", ROOT).returncode == 2


@pytest.mark.parametrize("epsilon", [16, 1])
def test_no_saved_pixel_is_further_than_epsilon(run, natural, tmp_path, epsilon):
    command = "attack_iter --input-dir {nat} --output-dir {adv} --num-steps 2 --step-size 16"
    assert run(f"{command} --epsilon {epsilon}", nat=natural, adv=tmp_path)[0] == 0
    before, after = pixels_of(natural), pixels_of(tmp_path)
    assert before.keys() == after.keys()
    assert max(abs(after[name] - before[name]).max() for name in before) == epsilon


def test_same_command_gives_the_same_bytes(run, natural, tmp_path):
    command = "attack_iter --input-dir {nat} --output-dir {adv} --gamma 0.5 --num-steps 2"
    contents = []
    for _ in range(2):
        options = "--rand-init --di-prob 0.5 --targeted --seed 3 --overwrite"
        assert run(f"{command} {options}", nat=natural, adv=tmp_path / "adv")[0] == 0
        contents.append({file.name: file.read_bytes() for file in (tmp_path / "adv").iterdir()})
    assert contents[0] == contents[1]


def test_from_images_to_table(run, natural, tmp_path):
    attack = "attack_iter --input-dir {nat} --output-dir {adv} --num-steps 4 --step-size 4 --json"
    for gamma in (1, 0.5):
        status, out, _ = run(f"{attack} --gamma {gamma}", nat=natural, adv=tmp_path / f"{gamma}")
        assert status == 0
        assert json.loads(out)["white_box_success"] == 100
        assert labels_of(tmp_path / f"{gamma}") == labels_of(natural)
    evaluate = (
        "evaluate --input-dir {a} {b} --nat-dir {nat} --arch efficientnet_lite0 efficientnet_lite1 "
        "--output {csv} --gallery {png}"
    )
    paths = {"a": tmp_path / "1", "b": tmp_path / "0.5", "nat": natural}
    paths |= {"csv": tmp_path / "r.csv", "png": tmp_path / "g.png"}
    status, out, _ = run(evaluate, **paths)
    assert status == 0
    assert "efficientnet_lite0  PGD     0.5" in out
    status, out, _ = run(f"{evaluate} --json", **paths)
    rows = json.loads(out)
    with paths["csv"].open() as stream:
        lines = list(csv.DictReader(stream))
    assert [line["gamma"] for line in lines] == ["1", "0.5"]
    for row, line in zip(rows, lines, strict=True):
        source, target = (row["targets"][f"efficientnet_lite{n}"] for n in range(2))
        assert row["images"] == 6
        assert source["success"]["rate"] == 100
        assert source["natural_accuracy"]["rate"] == target["natural_accuracy"]["rate"] == 100
        assert target["success"] == target["success_on_correct"]
        assert float(line["efficientnet_lite1"]) == target["success"]["rate"]
        assert row["largest_perturbation"] == 16
    assert PIL.Image.open(paths["png"]).size[0] > 500


def test_success_is_counted_by_hand(run, natural, tmp_path):
    """Natural images with two wrong labels: two are misclassified, none of them was correct."""
    for file in natural.glob("*.png"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    labels = labels_of(natural)
    wrong = {name: (label + 500) % 1000 for name, label in list(labels.items())[:2]}
    lines = [f"{name},{label}" for name, label in (labels | wrong).items()]
    (tmp_path / "labels.csv").write_text("\n".join(["filename,label", *lines]))
    command = "evaluate --input-dir {wrong} --nat-dir {wrong} --arch efficientnet_lite2 --json"
    _, out, _ = run(command, wrong=tmp_path)
    target = json.loads(out)[0]["targets"]["efficientnet_lite2"]
    rates = {name: rate["rate"] for name, rate in target.items()}
    assert rates == {
        "success": pytest.approx(100 / 3),
        "natural_accuracy": pytest.approx(200 / 3),
        "success_on_correct": 0,
    }


def test_targeted_attack_aims_at_the_label_files_classes_and_hits_are_counted(
    run, natural, tmp_path
):
    for file in natural.glob("*.png"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    labels = labels_of(natural)
    lines = [f"{name},{label},{(label + 1) % 1000}" for name, label in labels.items()]
    (tmp_path / "labels.csv").write_text("\n".join(["filename,label,target", *lines]))
    attack = "attack_iter --input-dir {nat} --output-dir {adv} --targeted --json"
    status, out, err = run(attack, nat=tmp_path, adv=tmp_path / "adv")
    assert status == 0
    assert "no target class" not in err
    hits = json.loads(out)["white_box_success"]
    assert hits >= 50
    with (tmp_path / "adv" / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {int(r["target"]) - labels[r["filename"]] for r in rows} <= {1, -999}
    evaluate = "evaluate --input-dir {adv} --arch efficientnet_lite0 --json"
    _, out, _ = run(evaluate, adv=tmp_path / "adv")
    (row,) = json.loads(out)
    assert row["attack"] == "targeted PGD"
    assert row["targets"]["efficientnet_lite0"]["success"]["rate"] == pytest.approx(hits)


def test_ensemble_gives_each_network_its_gamma_and_hooks(run, natural, tmp_path, monkeypatch):
    """Averaged logits take branch hooks everywhere: a ResNet's relu hooks rescale its gradient."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    network = calibrated(torchvision.models.resnet18())
    torch.save(network.state_dict(), checkpoints / "resnet18-5c106cde.pth")
    attack = (
        "attack_iter --input-dir {nat} --output-dir {adv} --num-steps 1 --gamma 0.5 0.2 "
        "--arch efficientnet_lite1 resnet18"
    )
    for mode, hooks, number in (("logits", "branch", 5), ("gradients", "relu", 13)):
        folder = tmp_path / mode
        status, _, err = run(f"{attack} --ensemble {mode}", nat=natural, adv=folder)
        assert status == 0
        assert "efficientnet_lite1: gamma 0.5, 14 hooks" in err
        assert f"resnet18: gamma 0.2, {number} hooks" in err
        made = json.loads((folder / "run.json").read_text())
        assert made["hooks"] == ["branch", hooks]
        assert made["gamma"] == [0.5, 0.2]


def test_folders_that_differ_in_the_seed_alone_become_one_row(run, natural, tmp_path):
    attack = "attack_iter --input-dir {nat} --output-dir {adv} --num-steps 2 --rand-init"
    for folder, options in [("a", "--seed 1"), ("b", "--seed 2"), ("c", "--seed 1 --momentum 1")]:
        assert run(f"{attack} {options}", nat=natural, adv=tmp_path / folder)[0] == 0
    evaluate = "evaluate --arch efficientnet_lite1 --json --input-dir"
    rates = [
        json.loads(run(f"{evaluate} {{x}}", x=tmp_path / folder)[1])[0]["targets"]
        for folder in "abc"
    ]
    rates = [rate["efficientnet_lite1"]["success"]["rate"] for rate in rates]
    paths = {folder: tmp_path / folder for folder in "abc"}
    merged, other = json.loads(run(f"{evaluate} {{a}} {{b}} {{c}}", **paths)[1])
    assert (merged["runs"], other["runs"]) == (2, 1)
    assert merged["targets"]["efficientnet_lite1"]["success"] == {
        "rate": pytest.approx(statistics.mean(rates[:2])),
        "std": pytest.approx(statistics.stdev(rates[:2])),
    }
    assert other["targets"]["efficientnet_lite1"]["success"]["rate"] == rates[2]


@pytest.mark.parametrize("budget", [3, 0])
def test_perturbation_over_epsilon_fails(run, natural, tmp_path, budget):
    attack = "attack_iter --input-dir {nat} --output-dir {adv} --num-steps 1 --step-size 4"
    assert run(f"{attack} --epsilon 4", nat=natural, adv=tmp_path)[0] == 0
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(record | {"epsilon": budget}))
    command = "evaluate --input-dir {adv} --nat-dir {nat} --arch efficientnet_lite0"
    status, out, err = run(command, nat=natural, adv=tmp_path)
    assert status == 1
    assert f"a pixel is 4/255 from the natural one, and run.json says epsilon {budget}/255" in err
    assert "4/255" in out


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("attack_iter --input-dir {x}/no --output-dir {x}/o", 1, "no such folder: {x}/no"),
        ("attack_iter --input-dir {x}/empty --output-dir {x}/o", 1, "no images in {x}/empty"),
        ("attack_iter --input-dir {x}/bad --output-dir {x}/o", 1, "a.png is not a readable image"),
        ("attack_iter --input-dir {x}/row --output-dir {x}/o", 1, "has no row for a.png"),
        ("attack_iter --input-dir {x}/good --output-dir {x}/good", 2, "is the input folder"),
        ("attack_iter --input-dir {x}/good --output-dir {x}/good/a.png", 1, "{x}/good/a.png"),
        ("attack_iter --input-dir {x}/good --output-dir {x}/o --gamma 0", 2, "0 is not above 0"),
        (
            "attack_iter --input-dir {x}/good --output-dir {x}/o --gamma 1.5",
            2,
            "1.5 is not above 0",
        ),
        (
            "attack_iter --input-dir {x}/good --output-dir {x}/o --epsilon -1",
            2,
            "-1 is not a number",
        ),
        (
            "attack_iter --input-dir {x}/good --output-dir {x}/o --hooks relu --arch vgg11 vgg13",
            2,
            "take --hooks branch, or --ensemble gradients",
        ),
        ("attack_iter --input-dir {x}/good", 2, "--input-dir and --output-dir are needed"),
        (
            "attack_iter --input-dir {x}/good --output-dir {x}/o --gamma 1 0.5",
            2,
            "2 gammas do not go with 1 networks",
        ),
        (
            "attack_iter --input-dir {x}/good --output-dir {x}/o --gamma 0.5 --branches [",
            1,
            "'[' is not a regular expression",
        ),
        (
            "attack_iter --input-dir {x}/good --output-dir {x}/o --di-resize 0.9",
            2,
            "0.9 is not a number of 1 or more",
        ),
        (
            "attack_iter --input-dir {x}/good --output-dir {x}/o --ti-kernel 4",
            2,
            "4 is not an odd whole number",
        ),
        (
            "evaluate --input-dir {x}/row2 --output {x}/r.xls",
            2,
            "does not end in .txt or .csv",
        ),
        ("evaluate --input-dir {x}/row2 --plot {x}/r.svg", 2, "does not end in .png or .pdf"),
        (
            "attack_iter --input-dir {x}/good --output-dir {x}/o --arch resnet51",
            1,
            "unknown network resnet51: did you mean resnet50",
        ),
        (
            "attack_iter --input-dir {x}/good --output-dir {x}/o --hooks relu --gamma 0.5",
            1,
            "no released hooks for efficientnet_lite0",
        ),
        ("evaluate --input-dir {x}/no", 1, "no such folder: {x}/no"),
        ("evaluate --input-dir {x}/good", 1, "{x}/good has no labels"),
        ("evaluate --input-dir {x}/good --gallery {x}/g.png", 2, "--gallery needs --nat-dir"),
        ("evaluate --input-dir {x}/row2 --nat-dir {x}/good", 1, "{x}/good has no b.png"),
        ("evaluate --input-dir {x}/row2 --arch vgg20_bn", 1, "did you mean vgg19_bn"),
        ("select_images --input-dir {x}/good --output-dir {x}/o", 1, "{x}/good has no labels"),
        ("select_images --input-dir {x}/row2 --output-dir {x}/o --resize 9", 2, "less than --size"),
    ],
)
def test_bad_input_gets_one_clear_line(run, tmp_path, command, status, message):
    for folder in ("empty", "bad", "row", "good", "row2"):
        (tmp_path / folder).mkdir()
    for folder, name in [("row", "a.png"), ("good", "a.png"), ("row2", "b.png")]:
        PIL.Image.new("RGB", (32, 32)).save(tmp_path / folder / name)
    (tmp_path / "bad" / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n then nothing")
    (tmp_path / "row" / "labels.csv").write_text("filename,label\n")
    (tmp_path / "row2" / "labels.csv").write_text("filename,label\nb.png,1\n")
    got, out, err = run(command, x=tmp_path)
    assert (got, out) == (status, "")
    assert message.format(x=tmp_path) in err.splitlines()[-1]


def test_evaluation_reads_each_image_once(run, natural, tmp_path, monkeypatch):
    for name in "ab":
        shutil.copytree(natural, tmp_path / name)
    read, read_image = [], pictures.read_image

    def recorded(path):
        read.append(path)
        return read_image(path)

    monkeypatch.setattr(pictures, "read_image", recorded)
    command = "evaluate --input-dir {out}/a {out}/b --nat-dir {nat} --workers 0 --batch-size 4"
    assert run(command, nat=natural, out=tmp_path)[0] == 0
    folders = (natural, tmp_path / "a", tmp_path / "b")
    assert sorted(read) == sorted(file for folder in folders for file in folder.glob("*.png"))


def test_table_is_printed_before_a_drawing_fails(run, natural, tmp_path, monkeypatch):
    def failing(rows, file):
        raise OSError(f"can't write {file}")

    monkeypatch.setattr(results, "write_plot", failing)
    evaluation = "evaluate --input-dir {nat} --arch efficientnet_lite1 --plot {out}/a.png"
    status, out, err = run(evaluation, nat=natural, out=tmp_path)
    assert status == 1
    assert "efficientnet_lite1" in out
    assert "can't write" in err
