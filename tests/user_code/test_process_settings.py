"""A user's file that changes settings of the whole process, or prints: the suite's stay."""

import json
import logging
import os
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import bytes_of, shell
from own_networks import PIXELS, load, returning
from PIL import Image, ImageFile
from small import ATTACK, EVALUATE

from suite.user_code.process_settings import contained

NEW_NAMES = hasattr(torch.backends, "fp32_precision")
CHANGES = {
    "logging.disable(logging.CRITICAL)": lambda: logging.root.manager.disable,
    "logging.getLogger('suite.networks').setLevel('ERROR')": lambda: logging.getLogger(
        "suite.networks"
    ).getEffectiveLevel(),
    "logging.basicConfig(force=True, level='ERROR')": lambda: (
        logging.root.level,
        logging.root.handlers[:],
    ),
    "logging.config.dictConfig({'version': 1, 'root': {'handlers': []}})": lambda: (
        logging.root.handlers[:],
        logging.getLogger("suite.networks.classifier").disabled,
    ),
    "warnings.simplefilter('error')": lambda: warnings.filters[:],
    "warnings.showwarning = None": lambda: warnings.showwarning,
    "np.seterr(all='raise')": np.geterr,
    "os.chdir('/')": Path.cwd,
    "os.environ['TORCH_HOME'] = '/elsewhere'": lambda: dict(os.environ),
    "os.environ.pop('PATH', None)": lambda: dict(os.environ),
    "sys.argv = ['x']": lambda: sys.argv,
    "sys.stdout = open(os.devnull, 'w')": lambda: sys.stdout,
    "sys.stderr = open(os.devnull, 'w')": lambda: sys.stderr,
    "sys.setrecursionlimit(5000)": sys.getrecursionlimit,
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)": lambda: signal.getsignal(15),
    "ImageFile.LOAD_TRUNCATED_IMAGES = True": lambda: ImageFile.LOAD_TRUNCATED_IMAGES,
    "Image.MAX_IMAGE_PIXELS = None": lambda: Image.MAX_IMAGE_PIXELS,
    "torch.set_grad_enabled(False)": torch.is_grad_enabled,
    "torch.set_default_dtype(torch.float64)": torch.get_default_dtype,
    "torch.set_num_threads(3)": torch.get_num_threads,
    "torch.autograd.set_detect_anomaly(True)": torch.is_anomaly_enabled,
    "torch.use_deterministic_algorithms(True)": torch.get_deterministic_debug_mode,
    "torch.backends.cudnn.benchmark = True": lambda: torch.backends.cudnn.benchmark,
    "torch.backends.cudnn.allow_tf32 = False": lambda: torch.backends.cudnn.allow_tf32,
    "torch.backends.cuda.matmul.allow_tf32 = True": torch.get_float32_matmul_precision,
    "torch.set_float32_matmul_precision('medium')": torch.get_float32_matmul_precision,
}
if NEW_NAMES:
    for place in ("", ".cudnn.conv", ".cuda.matmul", ".mkldnn.matmul"):
        CHANGES[f"torch.backends{place}.fp32_precision = 'tf32'"] = lambda: (
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
            torch.backends.fp32_precision,
            torch.backends.mkldnn.matmul.fp32_precision,
        )
IMPORTS = """
import logging, logging.config, os, signal, sys, warnings
import numpy as np, torch
from PIL import Image, ImageFile
"""
PLACES = {
    "imported": "{}\nnet = plain",
    "built": "def net():\n    {}\n    return Plain()",
    "run": returning("{}; return out"),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(("change", "setting"), CHANGES.items(), ids=CHANGES)
def test_what_a_network_changes_is_as_before(tmp_path, change, setting, place):
    before = setting()
    model = load(tmp_path, IMPORTS + place.format(change)).accelerate()
    assert setting() == before
    model(PIXELS)
    assert setting() == before


def test_change_lasts_while_the_user_s_code_runs():
    before = Path.cwd()
    with contained():
        os.chdir("/")
        with contained():  # as the network that an attack calls
            np.seterr(all="raise")
        assert Path.cwd() == Path("/")
        assert np.geterr()["over"] == "raise"
    assert Path.cwd() == before
    assert np.geterr()["over"] == "warn"


def test_working_directory_that_was_deleted_is_no_hindrance(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    load(tmp_path, "net = plain")(PIXELS)


PRINTS = """
import os, sys, torch
print("imported")
os.system("echo started")
class Say(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        print("forward")
        return x.clone()
    @staticmethod
    def backward(ctx, grad):
        print("backward")
        return grad
sys.path.insert(0, os.path.dirname(__file__))
from nets import Residual
class Loud(Residual):
    def forward(self, pixels):
        return super().forward(Say.apply(pixels))
def net():
    print("built")
    return Loud()
def fgsm(model, images, labels, epsilon):
    print("attacked")
    return images
"""


def test_what_is_printed_is_not_in_the_result(folder):
    (folder / "loud.py").write_text(PRINTS)
    command = "python attack_iter.py --input-dir nat --output-dir adv --arch loud.py:net --json"
    done = shell(f"{command} --gamma 0.5 --num-steps 2", folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 6
    said = ["imported", "started", "built", "forward", "backward"]
    assert set(said) <= set(done.stderr.splitlines())


def test_what_an_attack_and_a_target_print_is_not_in_the_result(succeed, folder):
    (folder / "loud.py").write_text(PRINTS)
    command = f"{ATTACK}ten --attack {{x}}/loud.py:fgsm --json".replace("--num-steps 2", "")
    out, err = succeed(command, x=folder)
    assert json.loads(out)["images"] == 6
    assert "attacked" in err
    out, err = succeed("evaluate --input-dir {x}/adv --arch {x}/loud.py:net --json", x=folder)
    assert json.loads(out)
    assert "forward" in err


def test_results_and_inputs_are_where_the_command_says(succeed, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "own").mkdir()
    text = "import os\nos.chdir(os.path.dirname(os.path.abspath(__file__)))\n"
    nets = (folder / "nets.py").read_text()
    (folder / "own" / "there.py").write_text(text + nets)
    attack = "def mine(model, images, labels, epsilon):\n    os.chdir('/')\n    return images\n"
    (folder / "own" / "mine.py").write_text(text + attack)
    command = "attack_iter --input-dir nat --output-dir adv --batch-size 2 --arch own/there.py:ten"
    succeed(f"{command} --attack own/mine.py:mine")
    assert len(bytes_of(folder / "adv")) == 7


@pytest.mark.parametrize("change", list(CHANGES)[:5])
def test_warnings_of_the_suite_are_still_shown(run, folder, change):
    text = (folder / "nets.py").read_text()
    (folder / "nets.py").write_text(IMPORTS + change + text)
    _, _, err = run(f"{ATTACK}of_batch", x=folder)
    assert "answers an image differently alone" in err
    assert "is unfinished" not in err


@pytest.mark.parametrize("command", [ATTACK, EVALUATE])
def test_network_that_exits_does_not_end_the_run_as_done(run, folder, command):
    text = (folder / "nets.py").read_text()
    text += "\nclass Exits(Residual):\n    def forward(self, x):\n        raise SystemExit(0)\n"
    (folder / "nets.py").write_text(text)
    status, out, err = run(f"{command}Exits", x=folder)
    assert (status, out) == (1, "")
    assert "nets.py:Exits: a pass of 1x3x32x32 pixels fails (SystemExit: 0)" in err


def test_network_that_exits_at_later_images_is_one_line(tmp_path):
    text = returning("len(x) > 1 and sys.exit(0); return out")
    model = load(tmp_path, "import sys\n" + text)
    with pytest.raises(ValueError, match="a pass of 2x3x16x16 pixels fails .SystemExit: 0"):
        model(PIXELS)
