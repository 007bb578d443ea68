import csv
import json
import re
import shutil
import statistics

import PIL.Image
import pytest
import torch
import torchvision
from conftest import calibrated, labels_of, pixels_of

from suite import results
from suite.images import pictures


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


def test_speed_is_of_the_attack_and_of_the_run(run, natural, tmp_path):
    attack = "attack_iter --input-dir {nat} --output-dir {adv} --num-steps 1"
    _, out, err = run(attack, nat=natural, adv=tmp_path / "a")
    alone, whole = re.search(r"speed +(\S+) images/s, (\S+) with reading and writing", out).groups()
    assert float(alone) >= float(whole) > 0
    assert re.search(r"s: networks \d+ %, waits for decoding \d+ %, writing \d+ %", err)
    spoken = json.loads(run(f"{attack} --json", nat=natural, adv=tmp_path / "b")[1])
    assert spoken["images_per_second"] >= spoken["images_per_second_of_run"] > 0
