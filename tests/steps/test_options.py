"""Every option of the scripts reaches code: two values of it give two outcomes."""

import shutil
import threading

import pytest
import torch
from conftest import SCRIPTS
from option_values import ATTACK, EVALUATE, SELECT
from small import NETWORKS

from suite.images import folders as image_folders
from suite.images import pictures
from suite.images.folders import list_images
from suite.images.labels import write_labels
from suite.networks.classifier import Classifier, load_model
from suite.results import transfer
from suite.running import devices

# --output-dir shows in every test; these two change nothing but the place and the memory.
ELSEWHERE = {"--output-dir", "--batch-size", "--workers", "--precision", "--no-cuda", "--help"}


@pytest.mark.parametrize(
    ("script", "table"),
    [
        ("attack_iter", ATTACK),
        ("select_images", SELECT),
        ("evaluate", EVALUATE),
    ],
)
def test_every_option_has_a_test_of_its_effect(script, table):
    actions = SCRIPTS[script].get_parser()._actions
    assert {action.option_strings[-1] for action in actions} - ELSEWHERE == set(table)


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
    (root / "nets.py").write_text(NETWORKS)
    lighter = "def lighter(model, x, y, epsilon, num_steps): return (x + epsilon).clamp(0, 1)"
    (root / "attacks.py").write_text(lighter)
    names = ("few", "fewer", "own.pth", "nets.py", "attacks.py")
    return {name.partition(".")[0]: root / name for name in names}


def on_a_small_network(option, arguments):
    """Add what an option's arguments leave out: images, and a network where any one does."""
    images = "" if "--input-dir" in arguments else "--input-dir {few} "
    any_one = "--arch" not in arguments and option not in ("--arch", "--checkpoint")
    return images + "--arch {nets}:thousand " * any_one + arguments


def outcome(run, command, folders, out):
    """Return what a run printed and wrote, but for what differs in any two runs."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    status, printed, log = run(command, out=out, **folders)
    assert status == 0, log
    written = {f.name: f.read_bytes() for f in sorted(out.iterdir()) if f.name != "run.json"}
    printed = [line for line in printed.splitlines() if not line.startswith("speed")]
    return written, printed, "of 2 images" in log


# What --overwrite does is tested in test_runs.py and test_select.py.
@pytest.mark.parametrize("option", [o for o in ATTACK if o != "--overwrite"])
def test_option_of_attack_iter(run, folders, tmp_path, monkeypatch, option):
    if option == "--hooks":  # the released hooks need a ResNet, and its weights a file
        import torchvision
        from conftest import calibrated

        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        file = tmp_path / "hub" / "checkpoints" / "resnet18-5c106cde.pth"
        file.parent.mkdir(parents=True)
        torch.save(calibrated(torchvision.models.resnet18()).state_dict(), file)
    common = "attack_iter --output-dir {out} --step-size 2 --num-steps 2"
    outcomes = []
    for arguments in ATTACK[option]:
        command = f"{common} {on_a_small_network(option, arguments)}"
        outcomes.append(outcome(run, command, folders, tmp_path / "out"))
    if option in ("--print-freq", "--json"):
        assert outcomes[0] != outcomes[1]
    else:
        assert outcomes[0][0] != outcomes[1][0]  # other images


@pytest.mark.parametrize("option", [o for o in SELECT if o != "--overwrite"])
def test_option_of_select_images(run, folders, tmp_path, option):
    commands = [f"select_images --output-dir {{out}} {a}" for a in SELECT[option]]
    first, second = (outcome(run, command, folders, tmp_path / "out") for command in commands)
    assert first != second


@pytest.mark.parametrize("option", EVALUATE)
def test_option_of_evaluate(run, folders, tmp_path, option):
    commands = [f"evaluate {on_a_small_network(option, each)}" for each in EVALUATE[option]]
    first, second = (outcome(run, command, folders, tmp_path / "out") for command in commands)
    assert first != second


STEPS = (
    "attack_iter --input-dir {few} --output-dir {out}/a --num-steps 1",
    "select_images --input-dir {few} --output-dir {out}/s",
    "evaluate --input-dir {few} --arch efficientnet_lite1",
)


@pytest.fixture
def run_each(run, folders, tmp_path):
    """Run each step with its value of an option."""

    def run_each(option, values):
        for command, value in zip(STEPS, values, strict=True):
            assert run(f"{command} {option} {value}", out=tmp_path, **folders)[0] == 0

    return run_each


def test_batch_size_is_the_largest_number_of_images_at_a_time(run_each, monkeypatch):
    sizes, in_batches = [], image_folders.in_batches

    def recorded(listed, size):
        sizes.append(size)
        return in_batches(listed, size)

    for module in (image_folders, transfer):
        monkeypatch.setattr(module, "in_batches", recorded)
    run_each("--batch-size", (1, 3, 5))
    assert sizes == [1, 3, 5]


def test_precision_is_that_of_the_networks(run_each, monkeypatch):
    seen, accelerate = [], Classifier.accelerate

    def recorded(model, precision):
        seen.append(precision)
        return accelerate(model, precision)

    monkeypatch.setattr(Classifier, "accelerate", recorded)
    run_each("--precision", ("bf16", "fp32", "bf16"))
    assert seen == ["bf16", "fp32", "bf16"]


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
        if device:
            raise MovedError(device)
        return module

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(devices, "to_device", lambda pixels, device: pixels)
    monkeypatch.setattr(torch.nn.Module, "to", record)
    for command in STEPS:
        for option, device in (("", "cuda"), (" --no-cuda", "cpu")):
            with pytest.raises(MovedError, match=device):
                run(command + option, out=tmp_path, **folders)
