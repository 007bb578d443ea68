"""ResNets for CIFAR-10's 32 x 32 pixels, and where their published weights are.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2:
https://arxiv.org/abs/1512.03385. The weights are Yerlan Idelbayev's, under the BSD-2 licence, from
https://github.com/akamaster/pytorch_resnet_cifar10, whose names the layers have.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torchvision.models.resnet import BasicBlock

from suite.networks.libraries import NetworkSpec, unknown_network
from suite.networks.protocols import IMAGENET
from suite.networks.weights import kept_file

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"
)  # fmt: skip
URL = "https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models"
FILES = {
    "cifar10/resnet20": "resnet20-12fca82f.th",
    "cifar10/resnet32": "resnet32-d509ac18.th",
    "cifar10/resnet44": "resnet44-014dd654.th",
    "cifar10/resnet56": "resnet56-4bfd9763.th",
    "cifar10/resnet110": "resnet110-1d1ed7c2.th",
    "cifar10/resnet1202": "resnet1202-f3b1deed.th",
}


def cifar10_network(name: str) -> NetworkSpec:
    """Return one of the networks in `FILES`, or raise ValueError."""
    if name not in FILES:
        raise unknown_network(name, list(FILES))
    depth = int(name.removeprefix("cifar10/resnet"))

    def build(file: Path | None, classes: int = len(CIFAR10_CLASSES)) -> nn.Module:
        network = ResNet(depth, classes)
        if file:
            # The tensors were saved on a GPU, of a network inside nn.DataParallel.
            saved = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
            tensors = {key.removeprefix("module."): tensor for key, tensor in saved.items()}
            network.load_state_dict(tensors)
        return network

    url = f"{URL}/{FILES[name]}"
    given = {"file": kept_file(url), "url": url, "class_names": CIFAR10_CLASSES}
    # The authors normalise with ImageNet's mean and standard deviation.
    return NetworkSpec(build, (3, 32, 32), **IMAGENET, **given)


class ResNet(nn.Sequential):
    """A ResNet for small images, N x 3 x 32 x 32, with three stages of 16, 32 and 64 channels.

    Args:
        depth: the number of layers with weights, 6 n + 2 with n blocks a stage.
    """

    def __init__(self, depth: int, classes: int = len(CIFAR10_CLASSES)):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        for stage, channels in enumerate((16, 32, 64), start=1):
            narrowing = (channels // 2, channels, 2, Shortcut())
            first = BasicBlock(*narrowing) if stage > 1 else BasicBlock(16, 16)
            others = (BasicBlock(channels, channels) for _ in range((depth - 2) // 6 - 1))
            self.add_module(f"layer{stage}", nn.Sequential(first, *others))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.linear = nn.Linear(64, classes)


class Shortcut(nn.Module):
    """The paper's option A, N x C x H x W to N x 2 C x H/2 x W/2: a skip without parameters.

    It keeps every second pixel, and pads as many channels of zeros before the others as behind.
    """

    def forward(self, features: Tensor) -> Tensor:
        added = features.shape[1] // 2
        return pad(features[:, :, ::2, ::2], (0, 0, 0, 0, added, added))
