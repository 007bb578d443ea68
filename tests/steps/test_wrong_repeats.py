"""One run twice, other images, pictures under a wrong name: what only looks like a result."""

import shutil
import subprocess
import sys

import PIL.Image
import pytest
from conftest import ROOT
from small import ATTACK, EVALUATE, SELECT, label

from suite.results import plots


@pytest.mark.parametrize("kind", ["again", "spelt otherwise", "copied", "without run.json"])
def test_one_run_twice_is_no_repeat(run, folder, kind):
    assert run(f"{ATTACK}ten --seed 1", x=folder)[0] == 0
    second = folder / "adv" if kind == "again" else folder / "nat" / ".." / "adv"
    if kind == "copied":
        second = shutil.copytree(folder / "adv", folder / "copy")
    elif kind == "without run.json":
        (folder / "adv" / "run.json").unlink()
    command = "evaluate --input-dir {x}/adv {y} --arch {x}/nets.py:ten"
    status, out, err = run(command, x=folder, y=second)
    if kind == "again":  # the shell's wildcards may give a folder twice; it is one row
        assert status == 2
        assert "stands twice" in err
    else:
        assert (status, out) == (1, "")
        assert f"{folder}/adv and {second} are the same run" in err


def test_gallery_has_imagenet_s_names_for_imagenet_s_classes_alone(succeed, folder, monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "write_gallery", lambda examples, *_: shown.append(examples))
    for network in ("ten", "thousand"):
        succeed(f"{EVALUATE}{network} --nat-dir {{x}}/nat --gallery {{x}}/g.png", x=folder)
    assert [examples[1]["label"] for examples in shown] == ["class 1", "goldfish"]


def test_two_selections_into_one_folder_do_not_mix(run, folder):
    hold = """
import sys, pathlib, time; from suite.running import runs
with runs.locked(pathlib.Path(sys.argv[1])):
    print('held', flush=True)
    time.sleep(60)
"""
    (folder / "kept").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(folder / "kept")], cwd=ROOT, stdout=subprocess.PIPE
    )
    holder.stdout.readline()
    status, _, err = run(f"{SELECT}ten --overwrite", x=folder)
    assert (status, f"another run is writing to {folder}/kept" in err) == (1, True)
    holder.kill()
    holder.communicate()
    assert "another run" not in run(f"{SELECT}ten", x=folder)[2]


def test_jpegs_are_warned_of_without_a_run_json(run, folder):
    for file in (folder / "nat").glob("*.png"):
        PIL.Image.open(file).save(file, "JPEG")
    assert "is a JPEG: it washes perturbations out" in run(f"{EVALUATE}ten", x=folder)[2]


@pytest.mark.parametrize(("gamma", "status"), [(0.5, 1), (1, 0)])
def test_gamma_that_changes_nothing_is_refused(run, folder, gamma, status):
    """A network whose branches run as compiled code, which knows of no hooks."""
    command = f"{ATTACK}compiled --gamma {gamma} --branches inner.branch"
    found, _, err = run(command, x=folder)
    assert found == status, err
    assert ("gamma 0.5 leaves the gradient of" in err) == bool(status)


def test_repeats_of_other_images_are_refused(run, folder):
    for seed in (1, 2):
        command = f"{ATTACK}ten --rand-init --seed {seed}".replace("adv", f"adv{seed}")
        assert run(command, x=folder)[0] == 0
    (folder / "adv2" / "5.png").unlink()
    label(folder / "adv2", range(5))
    command = "evaluate --input-dir {x}/adv1 {x}/adv2 --arch {x}/nets.py:ten"
    status, out, err = run(command, x=folder)
    assert (status, out) == (1, "")
    assert f"{folder}/adv1 and {folder}/adv2 are repeats, but of other images" in err
    assert "only one of them has 5.png" in err


def test_target_class_that_is_the_label_is_refused(run, folder):
    label(folder / "nat", range(6), target=4)
    status, _, err = run(f"{ATTACK}ten --targeted", x=folder)
    assert (status, "4.png: its target class 4 is its label" in err) == (1, True)
    assert run(f"{ATTACK}ten", x=folder)[0] == 0


def test_folder_whose_images_are_the_natural_ones_is_warned_of(succeed, folder):
    succeed(f"{ATTACK}ten", x=folder)
    evaluation = "evaluate --input-dir {x}/adv --arch {x}/nets.py:ten --nat-dir {x}/"
    for natural, warned in (("nat", False), ("adv", True)):
        _, err = succeed(evaluation + natural, x=folder)
        assert ("every image equals the natural one" in err) == warned
