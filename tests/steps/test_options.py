"""Every option of the scripts reaches code: two values of it give two outcomes."""

import shutil
import threading
from unittest.mock import Mock, patch

import pytest
import torch
import torchvision
from conftest import SCRIPTS, bytes_of, calibrated
from small import NETWORKS

from suite.images import folders as image_folders
from suite.images import pictures
from suite.images.folders import list_images
from suite.images.labels import write_labels
from suite.networks.classifier import Classifier, load_model
from suite.results import transfer
from suite.running import devices

LITE, LITES = "--arch efficientnet_lite0", "--arch efficientnet_lite0 efficientnet_lite1"
EMBEDDED = "--data embedded --num-images"
RESNET = "--arch torchvision/resnet18 --checkpoint {resnet} --gamma 0.5"
RANDOM = "--input-dir {fewer} --arch rp+{nets}:thousand --answers {out}/a.csv"
# For each option two sets of arguments whose outcomes must differ.
ATTACK = {
    "--input-dir": ("--input-dir {few}", "--input-dir {fewer}"),
    "--arch": ("", "--arch efficientnet_lite1"),
    "--checkpoint": ("", "--checkpoint {own}"),
    "--ensemble": (LITES, f"{LITES} --ensemble gradients"),
    "--epsilon": ("--epsilon 4", "--epsilon 2"),
    "--num-steps": ("--num-steps 1", "--num-steps 2"),
    "--step-size": ("--step-size 2", "--step-size -1"),
    "--momentum": ("--num-steps 3", "--num-steps 3 --momentum 1"),
    "--di-prob": ("", "--di-prob 1"),
    "--di-resize": ("--di-prob 1", "--di-prob 1 --di-resize 1.5"),
    "--ti-kernel": ("", "--ti-kernel 5"),
    "--ti-sigma": ("--ti-kernel 5", "--ti-kernel 5 --ti-sigma 1"),
    "--rand-init": ("", "--rand-init"),
    "--targeted": ("", "--targeted"),
    "--seed": ("--rand-init", "--rand-init --seed 1"),
    "--attack": ("", "--attack {attacks}:lighter"),
    "--loss": ("--loss logit", "--loss margin"),
    "--nesterov": ("--momentum 1 --num-steps 3", "--momentum 1 --num-steps 3 --nesterov"),
    "--scales": ("", "--scales 2"),
    "--variance": ("", "--variance 2"),
    "--variance-bound": ("--variance 2", "--variance 2 --variance-bound 5"),
    "--admix": ("", "--admix 2"),
    "--admix-ratio": ("--admix 1", "--admix 1 --admix-ratio 0.5"),
    "--block-shuffle": ("", "--block-shuffle 1"),
    "--eot": ("--di-prob 1", "--di-prob 1 --eot 2"),
    "--gamma": ("", "--gamma 0.5"),
    "--hooks": (f"{RESNET} --hooks relu", f"{RESNET} --hooks branch"),
    "--branches": ("--gamma 0.5", "--gamma 0.5 --branches norm"),
    "--overwrite": ("", "--overwrite"),
    "--print-freq": ("--batch-size 1", "--batch-size 1 --print-freq 1"),
    "--json": ("", "--json"),
}
SELECT = {
    "--input-dir": ("--input-dir {few}", "--input-dir {fewer}"),
    "--data": ("--input-dir {few}", f"{EMBEDDED} 2"),
    "--arch": (f"{EMBEDDED} 4", f"{EMBEDDED} 4 --arch efficientnet_lite1"),
    "--all": (f"{EMBEDDED} 4", f"{EMBEDDED} 4 --all"),
    "--checkpoint": ("--input-dir {few}", "--input-dir {few} --checkpoint {own}"),
    "--num-images": ("--input-dir {few}", "--input-dir {few} --num-images 1"),
    "--seed": (f"{EMBEDDED} 2 --seed 1", f"{EMBEDDED} 2 --seed 2"),
    "--size": ("--input-dir {few}", "--input-dir {few} --size 200"),
    "--resize": ("--input-dir {few}", "--input-dir {few} --resize 240"),
    "--whole": (f"{EMBEDDED} 1", f"{EMBEDDED} 1 --whole"),
    "--bicubic": (f"{EMBEDDED} 1", f"{EMBEDDED} 1 --bicubic"),
    "--overwrite": ("--input-dir {few}", "--input-dir {few} --overwrite"),
    "--json": ("--input-dir {few}", "--input-dir {few} --json"),
}
GALLERY = "--input-dir {few} {fewer} --nat-dir {few} --gallery {out}/g.png"
EVALUATE = {
    "--input-dir": ("--input-dir {few}", "--input-dir {fewer}"),
    "--arch": ("", LITE),
    "--checkpoint": (LITE, f"{LITE} --checkpoint efficientnet_lite0={{own}}"),
    "--seed": (RANDOM, f"{RANDOM} --seed 1"),
    "--nat-dir": ("", "--nat-dir {few}"),
    "--baseline": ("--input-dir {few} {fewer}", "--input-dir {few} {fewer} --baseline {few}"),
    "--published": ("", "--published paper"),
    "--quality": ("--nat-dir {few}", "--nat-dir {few} --quality"),
    "--output": ("", "--output {out}/r.csv"),
    "--answers": ("", "--answers {out}/a.csv"),
    "--plot": ("", "--plot {out}/p.png"),
    "--gallery": ("--nat-dir {few}", "--nat-dir {few} --gallery {out}/g.png"),
    "--gallery-dir": (GALLERY, f"{GALLERY} --gallery-dir {{few}}"),
    "--json": ("", "--json"),
}
TABLES = {"attack_iter": ATTACK, "select_images": SELECT, "evaluate": EVALUATE}
COMMON = {
    "attack_iter": "attack_iter --output-dir {out} --step-size 2 --num-steps 2",
    "select_images": "select_images --output-dir {out}",
    "evaluate": "evaluate",
}
# --output-dir shows in every test; these two change nothing but the place and the memory.
ELSEWHERE = {"--output-dir", "--batch-size", "--workers", "--precision", "--no-cuda", "--help"}


@pytest.mark.parametrize("script", TABLES)
def test_every_option_has_a_test_of_its_effect(script):
    actions = SCRIPTS[script].get_parser()._actions
    assert {action.option_strings[-1] for action in actions} - ELSEWHERE == set(TABLES[script])


@pytest.fixture(scope="module")
def folders(tmp_path_factory, natural):
    """Folders of two images and of one; lite0 with a bias against the first one's label."""
    root = tmp_path_factory.mktemp("options")
    listed = list_images(natural)
    for name, number in (("few", 2), ("fewer", 1)):
        (root / name).mkdir()
        for image in listed[:number]:
            shutil.copy(image.path, root / name)
        rows = [{"filename": i.name, "label": i.label} for i in listed[:number]]
        write_labels(root / name, rows)
    network = load_model("efficientnet_lite0").network
    network.classifier.bias[listed[0].label] -= 100
    torch.save(network.state_dict(), root / "own.pth")
    resnet = calibrated(torchvision.models.resnet18())  # which the released hooks need
    torch.save(resnet.state_dict(), root / "resnet.pth")
    (root / "nets.py").write_text(NETWORKS)
    lighter = "def lighter(model, x, y, epsilon, num_steps): return (x + epsilon).clamp(0, 1)"
    (root / "attacks.py").write_text(lighter)
    return {path.stem: path for path in root.iterdir()}


def on_a_small_network(option, arguments):
    """Add what an option's arguments leave out: images, and a network where any one does."""
    images = "" if "--input-dir" in arguments else "--input-dir {few} "
    any_one = "--arch" not in arguments and option not in ("--arch", "--checkpoint")
    return images + "--arch {nets}:thousand " * any_one + arguments


def outcome(succeed, command, folders, out):
    """Return what a run wrote and printed, but for what differs in any two runs."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    printed, log = succeed(command, out=out, **folders)
    printed = [line for line in printed.splitlines() if not line.startswith("speed")]
    return bytes_of(out), printed, "of 2 images" in log


# What --overwrite does is tested in test_runs.py and test_select.py.
@pytest.mark.parametrize(
    ("script", "option"),
    [(script, o) for script, table in TABLES.items() for o in table if o != "--overwrite"],
)
def test_option_changes_the_outcome(succeed, folders, tmp_path, script, option):
    outcomes = []
    for arguments in TABLES[script][option]:
        if script != "select_images":
            arguments = on_a_small_network(option, arguments)
        command = f"{COMMON[script]} {arguments}"
        outcomes.append(outcome(succeed, command, folders, tmp_path / "out"))
    if script == "attack_iter" and option not in ("--print-freq", "--json"):
        assert outcomes[0][0] != outcomes[1][0]  # other images
    else:
        assert outcomes[0] != outcomes[1]


STEPS = (
    "attack_iter --input-dir {few} --output-dir {out}/a --num-steps 1",
    "select_images --input-dir {few} --output-dir {out}/s",
    "evaluate --input-dir {few} --arch efficientnet_lite1",
)


@pytest.fixture
def run_each(succeed, folders, tmp_path):
    """Run each step with its value of an option; only selection needs a network with weights."""

    def run_each(option, values):
        for command, value in zip(STEPS, values, strict=True):
            small = "" if command.startswith("select_images") else "--arch {nets}:thousand"
            succeed(f"{command} {small} {option} {value}", out=tmp_path, **folders)

    return run_each


def test_batch_size_is_the_largest_number_of_images_at_a_time(run_each, monkeypatch):
    in_batches = Mock(wraps=image_folders.in_batches)
    for module in (image_folders, transfer):
        monkeypatch.setattr(module, "in_batches", in_batches)
    run_each("--batch-size", (1, 3, 5))
    assert [call.args[1] for call in in_batches.call_args_list] == [1, 3, 5]


def test_precision_is_that_of_the_networks(run_each):
    precisions = ["bf16", "fp32", "bf16"]
    original = Classifier.accelerate
    with patch.object(Classifier, "accelerate", autospec=True, side_effect=original) as accelerate:
        run_each("--precision", precisions)
    assert [call.args[1] for call in accelerate.call_args_list] == precisions


@pytest.mark.parametrize("workers", [0, 1])
def test_workers_decode_in_threads_of_their_own(run_each, monkeypatch, workers):
    threads, read_image = set(), pictures.read_image

    def recorded(path):
        threads.add(threading.current_thread())
        return read_image(path)

    monkeypatch.setattr(pictures, "read_image", recorded)
    run_each("--workers", [workers] * 3)
    assert (threads == {threading.main_thread()}) == (workers == 0)


def test_no_cuda_stays_on_the_cpu(run, folders, tmp_path, monkeypatch):
    class MovedError(Exception):
        pass

    def record(module, device=None, memory_format=None):
        if str(device).startswith("cuda"):
            raise MovedError
        return module

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "Event", Mock())
    monkeypatch.setattr(devices, "to_device", lambda pixels, device: pixels)
    monkeypatch.setattr(torch.nn.Module, "to", record)
    for command in STEPS:
        with pytest.raises(MovedError):
            run(command, out=tmp_path / "cuda", **folders)
        run(f"{command} --no-cuda", out=tmp_path / "cpu", **folders)
