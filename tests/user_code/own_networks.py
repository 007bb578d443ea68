"""A user's network to begin with, and how to load one that a test writes."""

import torch

from suite.networks.classifier import load_model

PIXELS = torch.rand(2, 3, 16, 16)
HEAD = """
import collections, dataclasses, types, warnings
import torch
from torch import nn

warnings.simplefilter("ignore")
torch.manual_seed(0)

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_size = 16
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.branch, self.fc = nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 5)
    def logits(self, pixels):
        features = self.norm(self.conv(pixels))
        return self.fc((features + self.branch(features)).mean((2, 3)))
    def forward(self, pixels):
        return self.logits(pixels)

def plain():
    return Plain()

class Output(collections.OrderedDict):  # as transformers' ModelOutput
    __getattr__ = collections.OrderedDict.__getitem__

Named = collections.namedtuple("Named", ["features", "logits"])
Attributes = collections.namedtuple("Attributes", "other")
"""


def load(folder, text, **options):
    """Load the network that `net` gives in a file of this text after HEAD."""
    (folder / "net.py").write_text(HEAD + text)
    torch.manual_seed(0)
    return load_model(f"{folder}/net.py:net", **options)


def returning(expression):
    """Return the text of a network that makes `out` of `x`, and ends with this expression."""
    forward = f"def forward(self, x):\n        out = self.logits(x)\n        {expression}"
    return f"class net(Plain):\n    {forward}"
