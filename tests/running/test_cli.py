"""What the command lines share."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from suite.running import cli


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["attack_iter.py --help", "scripts/list_networks.py resnet18"])
def test_output_that_nobody_reads_ends_quietly(command, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)  # as `| head` does
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    line = [sys.executable, *command.split()]
    done = subprocess.run(line, cwd=ROOT, env=environment, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.stderr == b""
    # argparse ignores it by itself
    assert done.returncode == (141 if unbuffered and "--help" not in command else 0)


@pytest.mark.parametrize(
    ("redirection", "status", "message"),
    [
        (">&-", 0, None),  # argparse then takes standard error
        (">/dev/full", 1, "can't write to standard output: No space left on device\n"),
    ],
)
def test_output_that_can_not_be_written(redirection, status, message):
    environment = os.environ | {"PYTHONUNBUFFERED": ""}
    line = f"{sys.executable} {ROOT}/evaluate.py --help {redirection}"
    done = subprocess.run(line, shell=True, env=environment, stderr=subprocess.PIPE, text=True)
    assert done.returncode == status
    assert message is None or done.stderr == message


def test_last_line_says_what_a_run_waited_for(caplog, monkeypatch):
    class Writer:
        waited = 4

    now = 0
    monkeypatch.setattr(cli.time, "perf_counter", lambda: now)

    def slowly():
        nonlocal now
        for _ in range(2):
            now += 5
            yield (["image"],)

    caplog.set_level("INFO")
    for _ in cli.progress(slowly(), 2, writer=Writer()):
        now += 15
    assert "40.0 s: networks 65 %, waits for decoding 25 %, writing 10 %" in caplog.text
