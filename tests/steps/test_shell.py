"""The shell scripts."""

import PIL.Image
from conftest import rows_of
from shell_commands import commands_of


def test_gamma_sweep_writes_table_and_plot(succeed, tmp_path):
    two = {"GAMMAS": "1.0 0.5", "NUM_IMAGES": "2", "ATTACK": "--num-steps 2"}
    for command in commands_of("sweep_gamma.sh", tmp_path, **two):
        succeed(command)
    assert [row["gamma"] for row in rows_of(tmp_path / "table.csv")] == ["1", "0.5"]
    assert PIL.Image.open(tmp_path / "success_over_gamma.png").size[0] > 500


def test_demo_ends_with_table_and_gallery(succeed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in commands_of("demo.sh", tmp_path):
        fewer = {"select_images": " --num-images 3", "attack_iter": " --num-steps 1"}
        command += fewer.get(command.split()[0], "")
        out, _ = succeed(command)
    rows = rows_of(tmp_path / "demo" / "results.csv")
    assert {row["attack"] for row in rows} == {"PGD"}
    assert [row["gamma"] for row in rows] == ["1", "0.8", "0.6", "0.5", "0.4", "0.2"]
    assert [row["baseline"] for row in rows] == ["", *["demo/gamma_1.0"] * 5]
    assert "won  lost  p" in out
    for picture in ("gallery.png", "success_over_gamma.png"):
        assert PIL.Image.open(tmp_path / "demo" / picture).size[0] > 500
