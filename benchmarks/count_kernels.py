"""Count the kernels of an attack step on a GPU that is not there, and the bytes that it moves.

    python benchmarks/count_kernels.py

The bytes are counted on the CPU, in the same layout and in float32.
"""

import argparse
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import fake_gpu  # noqa: E402
from gpu_fast import Traffic  # noqa: E402
from gpu_shared import gamma_of, head, row  # noqa: E402

from suite.attack.loop import GradientAttack  # noqa: E402
from suite.attack.settings import Attack  # noqa: E402
from suite.attack.sources import Source  # noqa: E402
from suite.networks.classifier import load_model  # noqa: E402
from suite.running import devices  # noqa: E402

# Each with its gamma, None for that of the network, its hooks, and what is set beside those.
STEPS = {
    "PGD": (1, "auto", {}),
    "PGD+SGM, released hooks": (None, "relu", {}),
    "PGD+SGM, branch hooks": (None, "branch", {}),
    "PGD+DI": (1, "auto", {"di_prob": 1}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--archs", nargs="+", default=["resnet152", "densenet201"])
    parser.add_argument("--precisions", nargs="+", default=["tf32", "bf16"])
    args = parser.parse_args()
    head("network", "precision", "step", "kernels", "MB an image")
    for arch in args.archs:
        for precision in args.precisions:
            for name, (gamma, hooks, options) in STEPS.items():
                network = load_model(f"torchvision/{arch}", pretrained=False)
                source = Source(
                    network.accelerate(precision), gamma or gamma_of(arch), hooks, name=arch
                )
                moved = f"{moved_by(source, options) / 1e6:.0f}" if precision != "bf16" else "-"
                row(arch, precision, name, kernels_of(source, options), moved)


def moved_by(source: Source, options: dict) -> float:
    """Return the bytes that one more image adds to a step."""
    loop, found = GradientAttack(Attack(num_steps=1, **options), [source.network]), []
    handles = source.register_sgm()
    for images in (2, 4):
        with Traffic() as traffic:
            loop.perturb(torch.rand(images, 3, 224, 224), torch.arange(images))
        found.append(traffic.bytes)
    for handle in handles:
        handle.remove()
    return (found[1] - found[0]) / 2


def kernels_of(source: Source, options: dict) -> int:
    """Return how many kernels two steps have more than one; the network stays on the device."""
    counted = []
    with pytest.MonkeyPatch.context() as patch, fake_gpu.in_use(patch) as gpu:
        source.network.to(fake_gpu.DEVICE)
        source.register_sgm()
        inputs = torch.zeros(64, 3, 224, 224), torch.arange(64)
        inputs = [devices.to_device(each, fake_gpu.DEVICE) for each in inputs]
        for steps in (1, 2):
            gpu.events.clear()
            GradientAttack(Attack(num_steps=steps, **options), [source.network]).perturb(*inputs)
            counted.append(gpu.kernels().total())
    return counted[1] - counted[0]


if __name__ == "__main__":
    main()
