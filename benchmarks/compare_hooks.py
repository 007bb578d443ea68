"""Compare the authors' released hooks with the paper's formula: input gradients, side by side.

    python benchmarks/compare_hooks.py

Random weights, calibrated batch norms, float32, two random images; gamma 0.2, DenseNets 0.5.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
import torchvision
from torch.nn.functional import cosine_similarity, cross_entropy

from branches import residual_branches
from utils_sgm import (
    DENSENETS,
    RESNETS,
    register_hook_for_branches,
    register_sgm,
)

LEFT_OUT_BY_NAME = {
    "resnet18": r"layer1\.0\..*",
    "resnet34": r"layer1\.0\..*",
    "resnet101": r"layer3\.[12]0\..*",
    "resnet152": r"layer3\.[123]0\..*",
}


def calibrated(arch: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = torchvision.models.get_model(arch)
    with torch.no_grad():
        for _ in range(8):
            model(torch.rand(4, 3, 224, 224))
    return model.eval().requires_grad_(False)


def gradient(model: torch.nn.Module, pixels: torch.Tensor, handles: list) -> torch.Tensor:
    pixels = pixels.clone().requires_grad_()
    cross_entropy(model(pixels), torch.arange(len(pixels)), reduction="sum").backward()
    for handle in handles:
        handle.remove()
    return pixels.grad.flatten()


def main():
    print("| network | branches | compared | cosine | same sign |\n|---|---|---|---|---|")
    for arch in RESNETS + DENSENETS:
        gamma = 0.2 if arch in RESNETS else 0.5
        model = calibrated(arch)
        pixels = torch.rand(2, 3, 224, 224)
        released = gradient(model, pixels, register_sgm(model, arch, gamma, "relu"))
        names = "|".join(branch.module for branch in residual_branches(model))
        regexes = {"all": names}
        if arch in LEFT_OUT_BY_NAME:
            regexes["all that the released code scales"] = f"(?!{LEFT_OUT_BY_NAME[arch]})({names})"
        for which, regex in regexes.items():
            handles = register_hook_for_branches(model, gamma, branches=regex)
            number = len(handles)
            formula = gradient(model, pixels, handles)
            cosine = cosine_similarity(released.double(), formula.double(), 0)
            signs = (released.sign() == formula.sign()).double().mean()
            print(
                f"| {arch} | {number} | {which} | {cosine:.6f} | {100 * signs:.2f} % |", flush=True
            )


if __name__ == "__main__":
    main()
