import json
import re
import shutil
import statistics
from unittest.mock import Mock

import PIL.Image
import pytest
import torch
import torchvision
from conftest import bytes_of, calibrated, labels_of, pixels_of, rows_of, run_json
from small import ATTACK, EVALUATE, answers_of, label

from suite.images import pictures
from suite.results import plots


@pytest.mark.parametrize("epsilon", [16, 1])
def test_no_saved_pixel_is_further_than_epsilon(succeed, folder, epsilon):
    succeed(f"{ATTACK}ten --step-size 16 --epsilon {epsilon}", x=folder)
    before, after = pixels_of(folder / "nat"), pixels_of(folder / "adv")
    assert before.keys() == after.keys()
    assert max(abs(after[name] - before[name]).max() for name in before) == epsilon


def test_same_command_gives_the_same_bytes(succeed, folder):
    contents = []
    for _ in range(2):
        options = "--gamma 0.5 --rand-init --di-prob 0.5 --targeted --seed 3 --overwrite"
        succeed(f"{ATTACK}thousand {options}", x=folder)
        contents.append([bytes_of(folder / "adv"), (folder / "adv" / "run.json").read_bytes()])
    assert contents[0] == contents[1]


def test_from_images_to_table(succeed, natural, tmp_path):
    attack = "attack_iter --input-dir {nat} --output-dir {adv} --num-steps 2 --step-size 8 --json"
    for gamma in (1, 0.5):
        out, _ = succeed(f"{attack} --gamma {gamma}", nat=natural, adv=tmp_path / f"{gamma}")
        assert json.loads(out)["white_box_success"] == 100
        assert labels_of(tmp_path / f"{gamma}") == labels_of(natural)
    evaluate = (
        "evaluate --input-dir {x}/1 {x}/0.5 --nat-dir {nat} --arch efficientnet_lite0 "
        "efficientnet_lite1 --output {x}/r.csv {x}/r.md --gallery {x}/g.png"
    )
    out, _ = succeed(evaluate, nat=natural, x=tmp_path)
    assert "efficientnet_lite0  PGD+SGM  0.5" in out
    out, _ = succeed(f"{evaluate} --json", nat=natural, x=tmp_path)
    rows, lines = json.loads(out), rows_of(tmp_path / "r.csv")
    assert "| efficientnet_lite0 | PGD+SGM | 0.5 |" in (tmp_path / "r.md").read_text()
    assert [line["gamma"] for line in lines] == ["1", "0.5"]
    for row, line in zip(rows, lines, strict=True):
        source, target = (row["targets"][f"efficientnet_lite{n}"] for n in range(2))
        assert row["images"] == 6
        assert source["success"]["rate"] == 100
        assert source["natural_accuracy"]["rate"] == target["natural_accuracy"]["rate"] == 100
        assert target["success"] == target["success_on_correct"]
        assert float(line["efficientnet_lite1"]) == target["success"]["rate"]
        assert row["largest_perturbation"] == 16
    assert PIL.Image.open(tmp_path / "g.png").size[0] > 500


def test_success_is_counted_by_hand(run, folder):
    """Natural images with two wrong labels: two are misclassified, none of them was correct."""
    right = answers_of(folder, "ten")
    label(folder / "nat", [(each + (n < 2)) % 10 for n, each in enumerate(right)])
    _, out, _ = run(f"{EVALUATE}ten --nat-dir {{x}}/nat --json", x=folder)
    ((_, target),) = json.loads(out)[0]["targets"].items()
    rates = {name: rate["rate"] for name, rate in target.items()}
    assert rates == {
        "success": pytest.approx(100 / 3),
        "natural_accuracy": pytest.approx(200 / 3),
        "success_on_correct": 0,
    }


def test_targeted_attack_aims_at_the_label_files_classes_and_hits_are_counted(succeed, folder):
    lines = [f"{n}.png,{n},{n + 1}" for n in range(6)]
    (folder / "nat" / "labels.csv").write_text("\n".join(["filename,label,target", *lines]))
    out, err = succeed(f"{ATTACK}ten --targeted --json", x=folder)
    assert "no target class" not in err
    hits = json.loads(out)["white_box_success"]
    assert 0 < hits < 100
    rows = rows_of(folder / "adv" / "labels.csv")
    assert {int(r["target"]) - int(r["label"]) for r in rows} == {1}
    out, _ = succeed("evaluate --input-dir {x}/adv --arch {x}/nets.py:ten --json", x=folder)
    (row,) = json.loads(out)
    assert row["attack"] == "targeted PGD"
    assert row["targets"][f"{folder}/nets.py:ten"]["success"]["rate"] == pytest.approx(hits)


def test_ensemble_gives_each_network_its_gamma_and_hooks(succeed, folder, checkpoints):
    network = calibrated(torchvision.models.resnet18())
    torch.save(network.state_dict(), checkpoints / "resnet18-5c106cde.pth")
    attack = f"{ATTACK}thousand resnet18 --num-steps 1 --gamma 0.5 0.2"
    for mode in ("logits", "gradients"):
        _, err = succeed(f"{attack} --ensemble {mode} --overwrite", x=folder)
        assert "nets.py:thousand: gamma 0.5, 1 hooks" in err
        assert "resnet18: gamma 0.2, 4 hooks" in err
        made = run_json(folder / "adv")
        assert made["hooks"] == ["branch", "relu"]
        assert made["gamma"] == [0.5, 0.2]


def test_folders_that_differ_in_the_seed_alone_become_one_row(succeed, folder):
    def table(*names):
        folders = " ".join(f"{{x}}/{name}" for name in names)
        command = f"evaluate --arch {{x}}/nets.py:ten --json --input-dir {folders}"
        return json.loads(succeed(command, x=folder)[0])

    for name, options in [("a", "--seed 1"), ("b", "--seed 2"), ("c", "--seed 1 --momentum 1")]:
        attack = f"{ATTACK}ten --output-dir {{x}}/{name} --rand-init --step-size 0 {options}"
        succeed(attack, x=folder)
    target = f"{folder}/nets.py:ten"
    rates = [table(name)[0]["targets"][target]["success"]["rate"] for name in "abc"]
    assert rates[0] != rates[1]
    merged, other = table(*"abc")
    assert (merged["runs"], other["runs"]) == (2, 1)
    assert merged["targets"][target]["success"] == {
        "rate": pytest.approx(statistics.mean(rates[:2])),
        "std": pytest.approx(statistics.stdev(rates[:2])),
    }
    assert other["targets"][target]["success"]["rate"] == rates[2]


@pytest.mark.parametrize("budget", [3, 0])
def test_perturbation_over_epsilon_fails(run, succeed, folder, budget):
    succeed(f"{ATTACK}ten --step-size 4 --epsilon 4", x=folder)
    made = run_json(folder / "adv") | {"epsilon": budget}
    (folder / "adv" / "run.json").write_text(json.dumps(made))
    command = "evaluate --input-dir {x}/adv --nat-dir {x}/nat --arch {x}/nets.py:ten"
    status, out, err = run(command, x=folder)
    assert status == 1
    assert f"a pixel is 4/255 from the natural one, and run.json says epsilon {budget}/255" in err
    assert "4/255" in out


def test_evaluation_reads_each_image_once(succeed, folder, monkeypatch):
    for name in "ab":
        shutil.copytree(folder / "nat", folder / name)
    monkeypatch.setattr(pictures, "read_image", read := Mock(wraps=pictures.read_image))
    command = (
        "evaluate --input-dir {x}/a {x}/b --nat-dir {x}/nat --workers 0 --batch-size 4 "
        "--arch {x}/nets.py:ten {x}/nets.py:constant"
    )
    succeed(command, x=folder)
    assert sorted(each.args[0] for each in read.call_args_list) == sorted(folder.glob("*/*.png"))


def test_table_is_printed_before_a_drawing_fails(run, folder, monkeypatch):
    monkeypatch.setattr(plots, "write_plot", Mock(side_effect=OSError("can't write")))
    status, out, err = run(f"{EVALUATE}ten --plot {{x}}/a.png", x=folder)
    assert status == 1
    assert "nets.py:ten" in out
    assert "can't write" in err


def test_speed_is_of_the_attack_and_of_the_run(succeed, folder):
    out, err = succeed(f"{ATTACK}ten", x=folder)
    alone, whole = re.search(r"speed +(\S+) images/s, (\S+) with reading and writing", out).groups()
    assert float(alone) >= float(whole) > 0
    assert re.search(r"s: networks \d+ %, waits for decoding \d+ %, writing \d+ %", err)
    spoken = json.loads(succeed(f"{ATTACK}ten --json --overwrite", x=folder)[0])
    assert spoken["images_per_second"] >= spoken["images_per_second_of_run"] > 0
