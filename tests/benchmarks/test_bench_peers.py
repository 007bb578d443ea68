"""Other libraries' attacks on the same network: in float64 their images are this suite's."""

import importlib
import sys

import pytest
from conftest import ROOT


@pytest.mark.filterwarnings("ignore:Using a non-full backward hook")
def test_images_of_the_peers_are_equal_in_float64(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    command = "bench_peers.py --equality --arch resnet18 --batch-size 2"
    monkeypatch.setattr(sys, "argv", command.split())
    importlib.import_module("bench_peers").main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| resnet18")]
    assert (
        len(lines) >= 3
    )  # the released code, torchattacks and foolbox; torchattack if it is there
    assert all(line.endswith("| 100.00 % |") for line in lines)
