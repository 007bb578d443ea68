"""Whether a GPU's results are right: see gpu.py. Each function is a measurement."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from gpu_shared import (
    GPU,
    ROOT,
    attack_command,
    choose_device,
    finish,
    head,
    load,
    make_attack,
    make_images,
    row,
)
from torch import Tensor

from suite.images.folders import list_images
from suite.images.labels import LABELS
from suite.images.pictures import read_image, to_float, to_pixels
from suite.networks.classifier import Classifier

# They need neither foolbox nor pretrainedmodels, nor the efficientnet packages.
TESTS = (
    "tests/attack/test_on_gpu.py",
    "tests/attack/test_transformations.py",
    "tests/images/test_label_files.py",
    "tests/images/test_pictures.py",
    "tests/images/test_metadata.py",
    "tests/method/test_hidden.py",
    "tests/method/test_utils_sgm.py",
    "tests/networks/test_acceleration.py",
    "tests/networks/test_convert_slim.py",
    "tests/networks/test_resizing.py",
    "tests/networks/test_slim.py",
    "tests/results/test_report.py",
    "tests/steps/test_wrong_numbers.py",
    "tests/user_code/test_input_sizes.py",
    "tests/user_code/test_user_outputs.py",
)


def first_step(args) -> None:
    """Share of pixels that the first step moves the same way as the CPU does in fp32.

    The CPU without folded batch norms, channels_last and the like, in the first row, shows what
    rounding alone changes.
    """
    head("network", "where", "precision", "equal", "in the worst image")
    for arch in args.archs:
        natural, labels = _pixels(make_images(args, args.images))
        expected = _signs(load(args, arch).accelerate("fp32"), arch, natural, labels)
        plain = _signs(load(args, arch), arch, natural, labels)
        row(arch, "CPU, as torchvision has it", "fp32", *_equal(plain, expected))
        for precision in args.precisions:
            device = choose_device(precision)
            model = load(args, arch).accelerate(precision).to(device)
            signs = _signs(model, arch, natural.to(device), labels.to(device))
            row(arch, "GPU" if GPU else "CPU", precision, *_equal(signs, expected))


def _pixels(folder: Path) -> tuple[Tensor, Tensor]:
    listed = list_images(folder)
    pixels = torch.stack([to_pixels(read_image(image.path)) for image in listed])
    # Nothing is clipped, so that each pixel shows its sign.
    return 0.1 + 0.8 * to_float(pixels), torch.tensor([image.label for image in listed])


def _signs(model: Classifier, arch: str, natural: Tensor, labels: Tensor) -> Tensor:
    attack = make_attack(model, arch, steps=1)
    pairs = zip(natural.split(16), labels.split(16), strict=True)
    return torch.cat([(attack.perturb(*pair) - pair[0]).sign().cpu() for pair in pairs])


def _equal(signs: Tensor, expected: Tensor) -> tuple[str, str]:
    shares = 100 * (signs == expected).float().flatten(1).mean(1)
    return f"{shares.mean():.3f} %", f"{shares.min():.3f} %"


def repeat(args) -> None:
    """Two runs of attack_iter.py in fp32, compared byte for byte."""
    head("network", "attack", "second run")
    natural = make_images(args, args.images)
    for arch in args.archs:
        for attack, options in {
            "PGD": [],
            "MI-FGSM+DI": ["--momentum", 1, "--di-prob", 0.5],
        }.items():
            one, other = (args.folder / f"{arch} {attack} {n}" for n in "12")
            for folder in (one, other):
                finish(_exact(args, arch, natural, folder, *options))
            row(arch, attack, _compared(one, other))


def resume(args) -> None:
    """A run in fp32 that is killed and resumed, compared with an undisturbed one byte for byte."""
    head("network", "killed when", "resumed run")
    natural = make_images(args, args.images)
    for arch in args.archs:
        whole, killed = args.folder / f"{arch} whole", args.folder / f"{arch} killed"
        finish(_exact(args, arch, natural, whole))
        command = _exact(args, arch, natural, killed)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and not any(killed.glob("*.png")):
            time.sleep(0.002)
        process.kill()
        if process.wait() == 0:
            row(arch, "it was done already: take more --images or --steps", "-")
            continue
        written = len(list(killed.glob("*.png")))
        finish(command)
        row(arch, f"{written} of {args.images} images were there", _compared(whole, killed))


def _exact(args, arch: str, natural: Path, folder: Path, *options) -> list[str]:
    batch = max(1, args.images // 4)
    options = ("--precision", "fp32", "--batch-size", batch, *options)
    return attack_command(args, arch, natural, folder, *options)


def _compared(one: Path, other: Path) -> str:
    """Say how the files of two runs differ; run.json aside, which has their folders."""
    files = {file.name: file for file in (*one.glob("*.png"), one / LABELS)}
    others = {file.name: file for file in (*other.glob("*.png"), other / LABELS)}
    if files.keys() != others.keys():
        return f"{len(files)} files and {len(others)}"
    differ = [name for name in files if files[name].read_bytes() != others[name].read_bytes()]
    if not differ:
        return f"all {len(files)} files are equal"
    pairs = [
        [np.asarray(PIL.Image.open(folder / name)).astype(int) for folder in (one, other)]
        for name in differ
        if name != LABELS
    ]
    changes = np.array([abs(before - after) for before, after in pairs] or [0])
    return (
        f"{len(differ)} of {len(files)} files differ, in {100 * (changes > 0).mean():.3g} % of "
        f"their pixels, by at most {changes.max()}/255"
    )


def tests(args) -> None:
    """The tests that need neither networks' weights nor embedded images."""
    if not importlib.util.find_spec("pytest"):
        print("pytest is not installed: skipped")
        return
    there = [file for file in TESTS if (ROOT / file).is_file()]
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", "-rfE"]
    if importlib.util.find_spec("xdist"):
        command += ["-n", "4" if GPU else "1"]
    print("```", flush=True)
    done = subprocess.run([*command, *there], cwd=ROOT, stderr=subprocess.STDOUT)
    print(f"```\n\nExit status {done.returncode}.")
