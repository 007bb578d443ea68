"""The shell scripts."""

import csv
import json
import os
import subprocess

import PIL.Image
from conftest import ROOT


def commands_of(script, folder, **environment):
    """Return the commands of a shell script, to run here without thirteen starts of Python."""
    note = folder / "python"
    note.write_text('#!/bin/sh\necho "$@" >>"$OUT/commands"\n')
    note.chmod(0o755)
    path = os.pathsep.join([str(folder), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", str(ROOT / "scripts" / script)],
        cwd=folder,
        env=os.environ | environment | {"PATH": path, "OUT": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    commands = (folder / "commands").read_text().splitlines()
    return [command.replace(".py", "", 1) for command in commands]


def test_gamma_sweep_writes_table_and_plot(run, tmp_path):
    two = {"GAMMAS": "1.0 0.5", "NUM_IMAGES": "2", "ATTACK": "--num-steps 2"}
    for command in commands_of("sweep_gamma.sh", tmp_path, **two):
        status, _, err = run(command)
        assert status == 0, err
    rows = csv.DictReader((tmp_path / "table.csv").open())
    assert [row["gamma"] for row in rows] == ["1", "0.5"]
    assert PIL.Image.open(tmp_path / "success_over_gamma.png").size[0] > 500


def test_demo_ends_with_table_and_gallery(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in commands_of("demo.sh", tmp_path):
        fewer = {"select_images": " --num-images 3", "attack_iter": " --num-steps 1"}
        command += fewer.get(command.split()[0], "")
        status, out, err = run(command)
        assert status == 0, err
    rows = list(csv.DictReader((tmp_path / "demo" / "results.csv").open()))
    assert {row["attack"] for row in rows} == {"PGD"}
    assert [row["gamma"] for row in rows] == ["1", "0.8", "0.6", "0.5", "0.4", "0.2"]
    assert [row["baseline"] for row in rows] == ["", *["demo/gamma_1.0"] * 5]
    assert "won  lost  p" in out
    for picture in ("gallery.png", "success_over_gamma.png"):
        assert PIL.Image.open(tmp_path / "demo" / picture).size[0] > 500


def test_paper_tables_attack_with_and_without_sgm(run, tmp_path):
    small = {"NUM_IMAGES": "2", "NUM_STEPS": "1", "TARGETS": "efficientnet_lite1"}
    for command in commands_of("paper_tables.sh", tmp_path, DEMO="1", **small):
        status, out, err = run(command)
        assert status == 0, err
    table = tmp_path / "efficientnet_lite0.json"
    rows = [(row["attack"], row["gamma"]) for row in json.loads(table.read_text())]
    modifiers = ["PGD", "PGD+TI", "MI-FGSM", "PGD+DI"]
    plain = [(attack, 1) for attack in [*modifiers, "MI-FGSM+DI"]]
    assert sorted(rows) == sorted(plain + [(a, 0.5) for a, _ in plain])
    assert PIL.Image.open(tmp_path / "efficientnet_lite0.png").size[0] > 500
    assert out.count("paper: none on efficientnet_lite0") == len(rows)
