"""The three steps on a GPU that is not there: which never waits for the host, but at the start."""

import random

import pytest
import torch
from small import ATTACK, EVALUATE, SELECT, label

from suite.defences.purifier import Purifier
from suite.defences.randomised import RandomPadding

BATCH = 2 * 3 * 32 * 32  # bytes of a batch of two images
DEFENCES = ["bits:3", "fd", "rp", "smooth:0.25:12", "nrp", "jpeg:75"]


@pytest.fixture
def purifier(tmp_path):
    torch.save(Purifier(1).state_dict(), tmp_path / "nrp.pth")
    return tmp_path / "nrp.pth"


def check_overlap(gpu, batches, waits=""):
    """Each batch is launched before the one before it is read, and nothing waits but one file.

    From the second batch on: with the first one the networks are checked.
    """
    events = [event for event in gpu.events if not waits or waits not in event.place]
    launched = [n for n, e in enumerate(events) if (e.kind, e.size) == ("upload", BATCH)]
    collected = [n for n, e in enumerate(events) if e.kind == "collect"]
    assert len(launched) == len(collected) == batches
    assert all(n < m for n, m in zip(launched[1:], collected, strict=False))
    assert all(n < m for n, m in zip(collected, launched[2:], strict=False))
    during = events[launched[1] : collected[-1]]
    assert not [event for event in during if event.kind in ("wait", "blocking upload")]
    assert waits in {event.place.partition(":")[0] for event in gpu.kinds("wait")} | {""}


@pytest.mark.parametrize(
    "options",
    [
        "ten --targeted --momentum 1",
        "ten --precision bf16 --di-prob 0.5",
        "ten {x}/nets.py:other --ensemble gradients --admix 2 --scales 2",
        "ten --attack {x}/own.py:attack",
    ],
)
def test_attack_on_the_next_batch_begins_before_this_one_is_read(gpu, succeed, folder, options):
    (folder / "nat" / "labels.csv").unlink()  # what the network answers stands for them
    (folder / "nets.py").write_text((folder / "nets.py").read_text() + "other = ten")
    asks = "model, images, labels, epsilon, num_steps"
    (folder / "own.py").write_text(f"def attack({asks}): return images + model(images).mean()")
    succeed(f"{ATTACK}{options} --batch-size 2 --gamma 0.5", x=folder)
    check_overlap(gpu, 3)


@pytest.mark.parametrize("defence", DEFENCES)
def test_no_defence_makes_the_gpu_wait_but_jpeg(
    gpu, succeed, folder, purifier, defence, monkeypatch
):
    monkeypatch.setattr(RandomPadding, "passes", 2)
    waits = "/suite/defences/inputs.py" if "jpeg" in defence else ""
    checkpoint = f"--checkpoint nrp={purifier}" * (defence == "nrp")
    names = [step.replace("{x}/nets.py", f"{defence}+{{x}}/nets.py") for step in (ATTACK, EVALUATE)]
    for step in names:
        gpu.events.clear()
        succeed(f"{step}ten --batch-size 2 {checkpoint}", x=folder)
        check_overlap(gpu, 3, waits=waits)


def test_targets_answer_to_the_next_batch_before_this_one_is_read(gpu, succeed, run, folder):
    succeed(f"{EVALUATE}ten {{x}}/nets.py:many --batch-size 2 --nat-dir {{x}}/nat", x=folder)
    check_overlap(gpu, 6)
    gpu.events.clear()
    run(f"{SELECT}ten {{x}}/nets.py:many --batch-size 2", x=folder)  # the device answers with zeros
    check_overlap(gpu, 3)


def test_a_selection_does_not_fail_for_an_image_that_it_did_not_need(gpu, succeed, folder):
    label(folder / "nat", [0] * 6)  # as the device answers
    order = [0, 1, 2, 3, 4, 5]
    random.Random(0).shuffle(order)
    (folder / "nat" / f"{order[2]}.png").write_bytes(b"")
    out, _ = succeed(f"{SELECT}ten --batch-size 2 --num-images 2", x=folder)
    assert len([event for event in gpu.kinds("upload") if event.size == BATCH // 2]) == 1
    assert "kept                           2" in out
