"""Small networks with known residual branches, and twins that scale them by autograd."""

import torch
from conftest import input_gradient
from torch import nn
from torchvision.ops import SqueezeExcitation

from utils_sgm import register_hook_for_branches

GAMMA = 0.3


def scaled(branch):
    return GAMMA * branch + (1 - GAMMA) * branch.detach()


def add_in_place(skip, branch):
    branch += skip
    return branch


JOINS = {
    "+": lambda z, f: z + f,
    "reversed": lambda z, f: f + z,
    "+=": add_in_place,
    "add": lambda z, f: z.add(f),
    "add_": lambda z, f: f.add_(z),
    "torch.add": lambda z, f: torch.add(z, other=f, alpha=0.7),
    "scalar": lambda z, f: z + f * 0.5,
}
PLUS = JOINS["+"]


def conv(channels=4, kernel=3):
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2)


class Net(nn.Module):
    """A network whose forward is a function of itself, an input, and how a branch is taken."""

    def __init__(self, function, how=None):
        super().__init__()
        self.function, self.how = function, how
        self.f, self.g, self.relu = conv(), conv(), nn.ReLU(inplace=True)
        self.layers = nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(inplace=True), conv())
        self.of_two, self.of_other_two, self.of_tokens = conv(2), conv(2), nn.Linear(36, 1)
        self.gate, self.drop_path = SqueezeExcitation(4, 2), nn.Identity()
        self.gamma = nn.Parameter(torch.rand(4, 1, 1))
        self.weights = nn.Parameter(torch.randn(2, 4, 4, 3, 3) / 6)
        self.positions, self.norm = nn.Parameter(torch.randn(1, 36, 4)), nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4), nn.Dropout(0.1))
        self.view = nn.Sequential(nn.Flatten(), nn.Linear(144, 144), nn.Unflatten(1, (4, 6, 6)))

    def forward(self, z):
        return self.function(self, z, self.how)


def additive(net, z, join):
    return net.relu(join(z, net.layers(z)))


def transformer(net, z, join):
    """The attention returns a tuple, positions are no residual, drop_path is shared."""
    tokens = z.flatten(2).transpose(1, 2) + net.positions
    n = net.norm(tokens)
    tokens = join(tokens, net.drop_path(net.attention(n, n, n, need_weights=False)[0]))
    tokens = join(tokens, net.drop_path(net.mlp(net.norm(tokens))))
    return tokens.transpose(1, 2).reshape(z.shape)


def recurrent(net, z, join):
    """One module, several times: each call is a branch's output."""
    for _ in range(3):
        z = join(z, net.layers(z))
    return z


def shared_drop_path(net, z, join):
    """Branches computed without modules, that an Identity hands on."""
    for weight in net.weights:
        y = nn.functional.conv2d(z, weight, padding=1) * torch.sigmoid(z)
        z = join(z, net.drop_path(y))
    return z


def control_flow(net, z, join):
    for _ in range(2 if z.sum() > 0 else 2):
        if z.shape[1] == 4:
            z = join(z, net.layers(z))
    return z


# With the number of their residual modules.
NETWORKS = {
    "additive": (additive, 1),
    "pre-activation": (lambda net, z, join: join(z, net.layers(torch.relu(z))), 1),
    "squeeze and excitation": (lambda net, z, join: join(z, net.gate(net.f(z))), 1),
    "transformer": (transformer, 2),
    "layer scale": (lambda net, z, join: join(z, net.gamma * net.layers(z)), 1),
    "nested": (lambda net, z, join: join(z, net.g(additive(net, net.f(z), join))), 2),
    "recurrent": (recurrent, 1),
    "shared drop path": (shared_drop_path, 1),
    "control flow": (control_flow, 1),
    # The branch is a view, which an addition in place then changes.
    "returns view": (lambda net, z, join: join(z, net.view(z)), 1),
    # x + f(x) + g(x): both f and g are residual modules of the one skip connection.
    "two terms": (lambda net, z, join: join(join(z, net.f(z)), net.g(z)), 2),
    # x + (f(x) + g(x)): the branch is a sum, which no module returns.
    "sum of two": (lambda net, z, join: join(z, net.f(z) + net.g(z)), 2),
}


def classifier(block: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    stem, head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(144, 5)
    return nn.Sequential(stem, block, nn.Flatten(), head).double().eval()


def assert_scaled_as_by_autograd(build, modules: int, join=None) -> None:
    """Compare our hooks on a network with its twin, whose branches autograd itself scales.

    `build` makes both from a function of a branch or, where a `join` is given, from a function of a
    skip connection and a branch.
    """
    how = (join, lambda z, f: join(z, scaled(f))) if join else (lambda f: f, scaled)
    plain, oracle = (classifier(build(each)) for each in how)
    oracle.load_state_dict(plain.state_dict())
    pixels = torch.rand(2, 3, 6, 6, dtype=torch.double)
    expected = input_gradient(oracle, pixels)
    assert not torch.allclose(input_gradient(plain, pixels), expected)
    handles = register_hook_for_branches(plain, GAMMA, (3, 6, 6))
    assert len(handles) == modules
    torch.testing.assert_close(input_gradient(plain, pixels), expected)
