"""Small networks and images of noise, on which a step takes no time."""

import numpy as np
import PIL.Image

from suite.images.folders import list_images
from suite.images.labels import write_labels
from suite.images.pictures import read_batches, to_float
from suite.networks.classifier import load_model

NETWORKS = """
import torch
from torch import nn

class Residual(nn.Module):
    input_size = 32

    def __init__(self, classes=10):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.branch = nn.Conv2d(3, 8, 3, 4), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.head = nn.Identity(), nn.Linear(8 * 64, classes)

    def forward(self, pixels):
        features = self.norm(self.stem(pixels))
        features = torch.relu(features + self.branch(features))
        return self.head(features.flatten(1))

def ten(): return Residual()
def thousand(): return Residual(1000)
def background(): return Residual(1001)
def many(): return Residual(6000)

def nan():
    network = Residual()
    network.head.bias.data[3] = torch.nan
    return network

def of_batch():
    network = Residual()
    network.norm = nn.BatchNorm2d(8, track_running_stats=False)
    return network

def constant():
    network = Residual()
    network.head.weight.data.zero_()
    return network

class Compiled(nn.Module):
    input_size = 32

    def __init__(self):
        super().__init__()
        self.inner = Residual()
        self.inner.eval().requires_grad_(False)
        self.fast = [torch.jit.trace(self.inner, torch.rand(1, 3, 32, 32))]

    def forward(self, pixels):
        return self.fast[0](pixels) + 0 * self.inner.branch(self.inner.stem(pixels)).sum()

def compiled(): return Compiled()
"""


def filled(root, size=32):
    """Six images of noise with the labels 0 to 5, in nat; their networks in nets.py."""
    (root / "nets.py").write_text(NETWORKS)
    (root / "nat").mkdir()
    noise = np.random.default_rng(0)
    for n in range(6):
        pixels = noise.integers(0, 256, (size, size, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(root / "nat" / f"{n}.png")
    label(root / "nat", range(6))
    return root


def label(folder, labels, target=None):
    rows = [{"filename": f"{n}.png", "label": each} for n, each in enumerate(labels)]
    write_labels(folder, [r | ({"target": target} if target else {}) for r in rows])


def answers_of(root, network):
    """Return what a network of nets.py answers to the images in nat."""
    ((_, pixels),) = read_batches([list_images(root / "nat")])
    return load_model(f"{root}/nets.py:{network}")(to_float(pixels)).argmax(1).tolist()


ATTACK = "attack_iter --input-dir {x}/nat --output-dir {x}/adv --num-steps 2 --arch {x}/nets.py:"
EVALUATE = "evaluate --input-dir {x}/nat --arch {x}/nets.py:"
SELECT = "select_images --input-dir {x}/nat --output-dir {x}/kept --size 32 --arch {x}/nets.py:"
