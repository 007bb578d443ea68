"""The shell scripts."""

import csv

import PIL.Image
from shell_commands import commands_of


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
