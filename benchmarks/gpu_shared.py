"""What the measurements of gpu.py share: the machine, images, networks and commands."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import bench_pipeline
import torch
import torchvision
from torch import nn

from suite.attack.loop import GradientAttack
from suite.attack.settings import Attack
from suite.attack.sources import Source
from suite.images.labels import LABELS, whole_file
from suite.networks.classifier import Classifier, load_model
from suite.running import devices

ROOT = Path(__file__).parent.parent
GPU = torch.cuda.is_available()


def machine() -> str:
    """Return in words on what is measured."""
    device = torch.cuda.get_device_name() if GPU else "no GPU: all of this is of the CPU"
    names = ("torch", "torchvision", "timm", "advertorch")
    versions = [f"{name} {_version(name)}" for name in names]
    if GPU:
        versions.append(f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    cores = len(os.sched_getaffinity(0))
    return f"{device}; {cores} CPU cores; Python {platform.python_version()}, {', '.join(versions)}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # it lies in a folder, or is not there
        return "?"


def row(*cells) -> None:
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


def head(*titles: str) -> None:
    row(*titles)
    print("|---" * len(titles) + "|", flush=True)


def make_images(args, number: int) -> Path:
    """Return a folder of so many images of coarse noise, made if it is not there."""
    folder = args.folder / f"images{number}"
    if not (folder / LABELS).is_file():  # which is written last
        shutil.rmtree(folder, ignore_errors=True)
        bench_pipeline.make_images(folder, number)
    return folder


def make_checkpoint(args, arch: str) -> Path:
    """Return a file of random weights, with batch norms that fit them, made if it is not there."""
    file = args.folder / f"{arch}.pth"
    if file.is_file():
        return file
    torch.manual_seed(0)
    network = torchvision.models.get_model(arch).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average of all batches
    with torch.no_grad():
        for _ in range(8):
            network(torch.rand(4, 3, 64, 64))
    with whole_file(file) as part:
        torch.save(network.state_dict(), part)
    return file


def gamma_of(arch: str) -> float:
    return 0.5 if arch.startswith("densenet") else 0.2


def load(args, arch: str) -> Classifier:
    return load_model(f"torchvision/{arch}", checkpoint=make_checkpoint(args, arch))


def choose_device(precision: str) -> str:
    """Return the device, set up for a precision, whatever was set up before."""
    torch.use_deterministic_algorithms(False)
    return devices.choose_device(False, precision)


def make_attack(model: Classifier, arch: str, steps: int) -> GradientAttack:
    Source(model, gamma_of(arch), name=arch).register_sgm()
    return GradientAttack(Attack(num_steps=steps), [model])


def attack_command(args, arch: str, natural: Path, adversarial: Path, *options) -> list[str]:
    """Return a command of attack_iter.py that starts afresh, unless other options say more."""
    return [
        *(sys.executable, str(ROOT / "attack_iter.py")),
        *("--input-dir", str(natural), "--output-dir", str(adversarial)),
        *("--arch", f"torchvision/{arch}", "--checkpoint", str(make_checkpoint(args, arch))),
        *("--gamma", str(gamma_of(arch)), "--num-steps", str(args.steps)),
        *(str(option) for option in options),
    ]


def finish(command: list[str]) -> str:
    """Run a command to its end; return its log."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return done.stderr
