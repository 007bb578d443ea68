"""What the command lines share."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from suite.images import pictures


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["attack_iter.py --help", "scripts/list_networks.py resnet18"])
def test_output_that_nobody_reads_ends_quietly(command, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does
    done = subprocess.run(
        [sys.executable, *command.split()],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=writing,
        stderr=subprocess.PIPE,
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 141 or "--help" in command  # argparse ignores it by itself


def test_dead_decoder_is_one_line(run, natural, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "read_image", lambda path: os._exit(1))
    attack = "attack_iter --input-dir {nat} --output-dir {out} --batch-size 2 --workers 1"
    status, _, err = run(attack, nat=natural, out=tmp_path)
    assert status == 1
    assert "error: a process that reads images died" in err
    assert "take fewer --workers" in err
