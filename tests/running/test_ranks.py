"""Runs that torchrun divides among processes, on the CPU."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import PIL.Image
import pytest
import torch
import torch.distributed as dist
from conftest import ROOT, contents, run_json
from small import filled, label

from suite.networks.classifier import load_model
from suite.running import ranks

# torchrun gives each process one thread, and rounding depends on how many there are.
ALONE = os.environ | {"OMP_NUM_THREADS": "1"}
DATA = "--batch-size 2 --input-dir {nat}/nat --arch {nat}/nets.py:"
SELECT = f"select_images {DATA}constant --output-dir {{out}}/natural --num-images 3"
ATTACK = f"attack_iter {DATA}ten --output-dir {{out}}/adv --num-steps 2 --gamma 0.5 --di-prob 0.5"
FOR_ONE_RANK = ATTACK.replace("--batch-size 2", "--batch-size 99")
EVALUATE = f"evaluate {DATA}ten {{nat}}/nets.py:constant --nat-dir {{nat}}/nat --json"


@pytest.fixture(scope="module")
def natural(tmp_path_factory):
    """Images of noise, of which the constant network gets all but the second right."""
    root = filled(tmp_path_factory.mktemp("natural"))
    network = load_model(f"{root}/nets.py:constant")
    answer = network(torch.zeros(1, 3, 32, 32)).argmax(1).item()
    label(root / "nat", [answer, (answer + 1) % 10, *[answer] * 4])
    return root


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def torchrun(command, **paths):
    script, *options = command.format(**paths).split()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*launcher, "--nproc-per-node=2", str(ROOT / f"{script}.py"), *options],
        env=ALONE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "command",
    [SELECT, ATTACK, FOR_ONE_RANK, EVALUATE],
    ids=["select", "attack", "attack of one batch", "evaluate"],
)
def test_two_ranks_give_the_bytes_and_the_table_of_one(succeed, natural, tmp_path, command):
    alone, _ = succeed(command, nat=natural, out=tmp_path / "one")
    process = torchrun(command, nat=natural, out=tmp_path / "two")
    out, err = process.communicate()
    assert process.returncode == 0, err
    without_speed = [text.partition("speed")[0] for text in (out, alone)]
    assert without_speed[0] == without_speed[1]
    if command != EVALUATE:
        assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_run_whose_rank_was_killed_fails_and_is_finished_by_one_rank(succeed, natural, tmp_path):
    attack = f"{ATTACK} --batch-size 1 --num-steps 150"
    process = torchrun(attack, nat=natural, out=tmp_path / "two")
    folder = tmp_path / "two" / "adv"
    while not list(folder.glob("*.png")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)
    os.kill(process_of_rank(1, process.pid), signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == 1
    assert "is unfinished: the same command does the rest" in err
    assert run_json(folder)["status"] == "running"
    succeed(attack, nat=natural, out=tmp_path / "two")
    succeed(attack, nat=natural, out=tmp_path / "one")
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def process_of_rank(rank, launcher):
    lists = Path(f"/proc/{launcher}/task").glob("*/children")
    for child in (number for file in lists for number in file.read_text().split()):
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no process of rank {rank}")


def test_error_of_one_rank_ends_the_run_with_its_message(natural, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(natural, broken)
    PIL.Image.new("RGB", (5, 5)).save(broken / "nat" / "3.png")  # in rank 1's batch
    process = torchrun(ATTACK, nat=broken, out=tmp_path)
    _, err = process.communicate()
    assert process.returncode == 1
    assert f"attack_iter.py (rank 1): error: {broken}/nat/3.png is 5 x 5 pixels" in err


def test_group_ends_before_the_interpreter_does(monkeypatch):
    """Else one in six runs of two ranks aborted at its end."""
    registered = []
    monkeypatch.setenv("WORLD_SIZE", "1")
    ranks.join()
    assert not dist.is_initialized()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(ranks, "_store", ranks._store)
    monkeypatch.setattr(dist, "rendezvous", lambda url: iter([(dist.HashStore(), 0, 1)]))
    monkeypatch.setattr("atexit.register", registered.append)
    ranks.join()
    assert registered == [dist.destroy_process_group]
    registered.pop()()
    assert not dist.is_initialized()


def test_wrong_option_is_said_once(tmp_path):
    process = torchrun("attack_iter --gamma 3")
    _, err = process.communicate()
    assert process.returncode != 0
    assert err.count("3 is not between 0 and 1") == 1
