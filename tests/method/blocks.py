"""Small networks with known residual branches, and twins that scale them by autograd."""

import torch
from conftest import input_gradient
from torch import nn

from utils_sgm import register_hook_for_branches

GAMMA = 0.3


def scaled(branch):
    return GAMMA * branch + (1 - GAMMA) * branch.detach()


def add_in_place(skip, branch):
    branch += skip
    return branch


JOINS = {
    "+": (lambda z, f: z + f, lambda z, f: z + scaled(f)),
    "reversed": (lambda z, f: f + z, lambda z, f: scaled(f) + z),
    "+=": (add_in_place, lambda z, f: z + scaled(f)),
    "add": (lambda z, f: z.add(f), lambda z, f: z + scaled(f)),
    "add_": (lambda z, f: f.add_(z), lambda z, f: z + scaled(f)),
    "torch.add": (
        lambda z, f: torch.add(z, other=f, alpha=0.7),
        lambda z, f: z + 0.7 * scaled(f),
    ),
    "scalar": (lambda z, f: z + f * 0.5, lambda z, f: z + scaled(f) * 0.5),
}


def conv(channels=4, kernel=3):
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2)


class Additive(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.join = join
        self.f = nn.Sequential(conv(), nn.BatchNorm2d(4), nn.ReLU(inplace=True), conv())
        self.relu = nn.ReLU(inplace=True)

    def forward(self, z):
        return self.relu(self.join(z, self.f(z)))


class PreActivation(Additive):
    def forward(self, z):
        return self.join(z, self.f(torch.relu(z)))


class SqueezeAndExcitation(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.join, self.f, self.squeeze = join, conv(), conv(kernel=1)
        self.excite = Gate(self.squeeze)

    def forward(self, z):
        return self.join(z, self.excite(self.f(z)))


class Gate(nn.Module):
    def __init__(self, squeeze):
        super().__init__()
        self.squeeze = squeeze

    def forward(self, z):
        return z * torch.sigmoid(self.squeeze(z.mean((2, 3), keepdim=True)))


class Transformer(nn.Module):
    """The attention returns a tuple, positions are no residual, drop_path is shared."""

    def __init__(self, join):
        super().__init__()
        self.join = join
        self.positions = nn.Parameter(torch.randn(1, 36, 4))
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4), nn.Dropout(0.1))
        self.drop_path = nn.Identity()

    def forward(self, z):
        tokens = z.flatten(2).transpose(1, 2) + self.positions
        n = self.norm(tokens)
        tokens = self.join(tokens, self.drop_path(self.attention(n, n, n, need_weights=False)[0]))
        tokens = self.join(tokens, self.drop_path(self.mlp(self.norm(tokens))))
        return tokens.transpose(1, 2).reshape(z.shape)


class LayerScale(Additive):
    def __init__(self, join):
        super().__init__(join)
        self.gamma = nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, z):
        return self.join(z, self.gamma * self.f(z))


class Nested(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.join = join
        self.f = nn.Sequential(conv(), Additive(join), conv())

    def forward(self, z):
        return self.join(z, self.f(z))


class Recurrent(Additive):
    """One module, several times: each call is a branch's output."""

    def forward(self, z):
        for _ in range(3):
            z = self.join(z, self.f(z))
        return z


class SharedDropPath(nn.Module):
    """Branches computed without modules, that an Identity hands on."""

    def __init__(self, join):
        super().__init__()
        self.join, self.drop_path = join, nn.Identity()
        self.weights = nn.Parameter(torch.randn(2, 4, 4, 3, 3) / 6)

    def forward(self, z):
        for weight in self.weights:
            y = nn.functional.conv2d(z, weight, padding=1) * torch.sigmoid(z)
            z = self.join(z, self.drop_path(y))
        return z


class ControlFlow(Additive):
    def forward(self, z):
        for _ in range(2 if z.sum() > 0 else 2):
            if z.shape[1] == 4:
                z = self.join(z, self.f(z))
        return z


class ReturnsView(nn.Module):
    """The branch is a view, which an addition in place then changes."""

    def __init__(self, join):
        super().__init__()
        self.join = join
        self.f = nn.Sequential(nn.Flatten(), nn.Linear(144, 144), nn.Unflatten(1, (4, 6, 6)))

    def forward(self, z):
        return self.join(z, self.f(z))


class TwoTerms(nn.Module):
    """x + f(x) + g(x): both f and g are residual modules of the one skip connection."""

    def __init__(self, join):
        super().__init__()
        self.join, self.f, self.g = join, conv(), conv()

    def forward(self, z):
        return self.join(self.join(z, self.f(z)), self.g(z))


class SumOfTwo(TwoTerms):
    """x + (f(x) + g(x)): the branch is a sum, which no module returns."""

    def forward(self, z):
        return self.join(z, self.f(z) + self.g(z))


NETWORKS = {
    Additive: 1,
    PreActivation: 1,
    SqueezeAndExcitation: 1,
    Transformer: 2,
    LayerScale: 1,
    Nested: 2,
    Recurrent: 1,
    SharedDropPath: 1,
    ControlFlow: 1,
    ReturnsView: 1,
    TwoTerms: 2,
    SumOfTwo: 2,
}


def classifier(block: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    stem, head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(144, 5)
    return nn.Sequential(stem, block, nn.Flatten(), head).double().eval()


def assert_scaled_as_by_autograd(plain: nn.Module, oracle: nn.Module, modules: int) -> None:
    """Compare our hooks on a network with its twin, whose branches autograd itself scales."""
    oracle.load_state_dict(plain.state_dict())
    pixels = torch.rand(2, 3, 6, 6, dtype=torch.double)
    expected = input_gradient(oracle, pixels)
    assert not torch.allclose(input_gradient(plain, pixels), expected)
    handles = register_hook_for_branches(plain, GAMMA, (3, 6, 6))
    assert len(handles) == modules
    torch.testing.assert_close(input_gradient(plain, pixels), expected)


class Dense(nn.Module):
    def __init__(self, branch):
        super().__init__()
        self.branch = branch
        self.layers = nn.ModuleList(nn.Conv2d(4 + 2 * n, 2, 3, padding=1) for n in range(3))
        self.transition = nn.Conv2d(10, 4, 1)

    def forward(self, z):
        features = [z]
        for layer in self.layers:
            features.append(self.branch(layer(torch.relu(torch.cat(features, 1)))))
        return self.transition(torch.cat(features, 1))


class Res2Net(nn.Module):
    """Part of the channels feeds the next part's layer, and both are concatenated."""

    def __init__(self, branch):
        super().__init__()
        self.branch, self.f, self.g = branch, conv(2), conv(2)

    def forward(self, z):
        first, second = z.chunk(2, 1)
        first = self.f(first)
        return torch.cat([first, self.branch(self.g(first + second))], 1)
