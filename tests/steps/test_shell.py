"""The shell scripts, and the script with the paper's numbers."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import PIL.Image
from conftest import ROOT


def run_script(script, folder, **environment):
    """Run a shell script, with the python that lies in `folder` if one does."""
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["sh", str(ROOT / "scripts" / script)],
        cwd=ROOT,
        env=os.environ | environment | {"PATH": path, "OUT": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_gamma_sweep_writes_table_and_plot(tmp_path):
    two = {"GAMMAS": "1.0 0.5", "NUM_IMAGES": "2", "ATTACK": "--num-steps 2"}
    run_script("sweep_gamma.sh", tmp_path, **two)
    rows = csv.DictReader((tmp_path / "table.csv").open())
    assert [row["gamma"] for row in rows] == ["1", "0.5"]
    assert PIL.Image.open(tmp_path / "success_over_gamma.png").size[0] > 500


def test_paper_tables_attack_with_and_without_sgm(run, tmp_path):
    note = tmp_path / "python"  # of thirteen commands, which then run here, without thirteen starts
    note.write_text('#!/bin/sh\necho "$@" >>"$OUT/commands"\n')
    note.chmod(0o755)
    small = {"NUM_IMAGES": "2", "NUM_STEPS": "1", "TARGETS": "efficientnet_lite1"}
    run_script("paper_tables.sh", tmp_path, DEMO="1", **small)
    *commands, last = (tmp_path / "commands").read_text().splitlines()
    for command in commands:
        status, _, err = run(command.replace(".py", "", 1))
        assert status == 0, err
    table = tmp_path / "efficientnet_lite0.json"
    rows = [(row["attack"], row["gamma"]) for row in json.loads(table.read_text())]
    modifiers = ["PGD", "PGD+TI", "MI-FGSM", "PGD+DI"]
    plain = [(attack, 1) for attack in [*modifiers, "MI-FGSM+DI"]]
    assert sorted(rows) == sorted(plain + [(a, 0.5) for a, _ in plain])
    assert PIL.Image.open(tmp_path / "efficientnet_lite0.png").size[0] > 500
    assert last == f"scripts/beside_paper.py {table}"
    assert "| efficientnet_lite0 | MI-FGSM+DI | 0.5 |" in beside_paper(table)


def beside_paper(table):
    command = [sys.executable, str(ROOT / "scripts" / "beside_paper.py"), str(table)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_paper_numbers_stand_beside_ours(tmp_path):
    rate = {"success": {"rate": 80.0}}
    row = {"source": "resnet152", "attack": "PGD", "gamma": 0.2, "targets": {"vgg19_bn": rate}}
    (tmp_path / "r.json").write_text(json.dumps([row]))
    shown = beside_paper(tmp_path / "r.json")
    assert "| resnet152 | PGD | 0.2 | 80.00 (paper: 79.90 ± 0.69) |" in shown
