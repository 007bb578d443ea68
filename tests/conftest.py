import csv
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import PIL.Image
import pytest
import torch
from small import filled
from torch import nn

import select_images
from suite.running import cli

ROOT = Path(__file__).parent.parent
STEPS = ("select_images", "attack_iter", "evaluate")
FILES = [*ROOT.glob("*.py"), *ROOT.glob("scripts/*.py")]
SCRIPTS = {
    file.stem: importlib.import_module(file.stem)
    for file in FILES
    if "def get_parser" in file.read_text()
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    """The folder where torch keeps weights, empty; downloads fail."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", Mock(side_effect=OSError("no network")))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that is not there, on which the suite runs."""
    import fake_gpu  # which gives torch a device more

    with fake_gpu.in_use(monkeypatch) as gpu:
        yield gpu


@pytest.fixture
def run(monkeypatch, capsys, caplog):
    """Run a script as from the shell; return its exit status, output, and log with errors."""

    def run(command: str, **paths) -> tuple[int, str, str]:
        name, *words = shlex.split(command)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *(w.format(**paths) for w in words)])
        script, status = SCRIPTS[name], 0
        caplog.set_level("INFO")
        try:
            cli.run(script.main, script.get_parser())
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
        out, err = capsys.readouterr()
        return status, out, caplog.text + err

    return run


@pytest.fixture
def succeed(run):
    """Run a script that must succeed; return its output, and log with errors."""

    def succeed(command: str, **paths) -> tuple[str, str]:
        status, out, err = run(command, **paths)
        assert status == 0, err
        return out, err

    return succeed


@pytest.fixture
def folder(tmp_path):
    """Six images of noise with the labels 0 to 5, in nat; their networks in nets.py."""
    return filled(tmp_path)


@pytest.fixture(scope="session")
def natural(tmp_path_factory):
    """A folder of embedded images that all three embedded networks classify correctly."""
    folder = tmp_path_factory.mktemp("natural")
    archs = "efficientnet_lite0 efficientnet_lite1 efficientnet_lite2"
    options = f"--data embedded --num-images 6 --batch-size 4 --output-dir {folder} --arch {archs}"
    select_images.main(select_images.get_parser().parse_args(shlex.split(options)))
    return folder


def shell(command, cwd, **environment):
    """Run a command of the form `python script.py ...` in a process of its own."""
    words = shlex.split(command)
    words = [sys.executable, str(ROOT / words[1]), *words[2:]]
    return subprocess.run(
        words, cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )


def example(page, text):
    """Return the Python example of a page in which a text stands."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    (code,) = [block for block in blocks if text in block]
    return code


def calibrated(model: nn.Module, size: int = 64) -> nn.Module:
    """Give a network with random weights the batch-norm statistics of random images."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # takes over the statistics of one batch
    with torch.no_grad():
        model.train()(torch.rand(4, 3, size, size))
    return model.eval().requires_grad_(False)


def input_gradient(model: nn.Module, pixels: torch.Tensor, labels=None) -> torch.Tensor:
    """Return the gradient of the cross-entropy, with the labels 0, 1, ... if none are given."""
    pixels = pixels.detach().clone().requires_grad_()
    labels = torch.arange(len(pixels)) if labels is None else labels
    nn.functional.cross_entropy(model(pixels), labels, reduction="sum").backward()
    return pixels.grad


@contextmanager
def hooked(handles):
    """Take hooks off where the block ends."""
    yield handles
    for handle in handles:
        handle.remove()


def pixels_of(folder):
    files = sorted(folder.glob("*.png"))
    return {file.name: np.asarray(PIL.Image.open(file)).astype(int) for file in files}


def labels_of(folder):
    return {row["filename"]: int(row["label"]) for row in rows_of(folder / "labels.csv")}


def bytes_of(folder):
    """Return the content of each file but run.json, which has the options, and the lock."""
    return {f.name: f.read_bytes() for f in folder.glob("[!.]*") if f.name != "run.json"}


def contents(folder):
    """Return the content of each file in a folder, without the folder's own name in run.json."""
    assert not list(folder.rglob("*.part"))
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    return {f.name: f.read_bytes().replace(str(folder).encode(), b"") for f in files}


def run_json(folder):
    return json.loads((folder / "run.json").read_text())


def rows_of(table):
    with table.open(newline="") as stream:
        return list(csv.DictReader(stream))
