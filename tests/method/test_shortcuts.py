"""Skip connections without parameters that are not the identity: which carry every value on."""

from functools import partial

import pytest
import torch
from blocks import GAMMA, JOINS, PLUS, Net, assert_scaled_as_by_autograd, classifier, conv
from torch import nn
from torch.nn import functional

from branches import trace_connections
from utils_sgm import register_hook_for_branches


def every_second(z):
    return z[:, :, ::2, ::2]


def padded(z, channels=6):
    """Add channels of zeros before and behind."""
    return functional.pad(z, (0, 0, 0, 0, channels, channels))


def written_into_zeros(z):
    zeros = torch.zeros(len(z), 16, 6, 6, dtype=z.dtype)
    zeros[:, 4 : 4 + z.shape[1]] = z
    return zeros


def patches_merged(z):
    return torch.cat([z[:, :, i::2, j::2] for i in range(2) for j in range(2)], 1)


def by_hand(z):
    return z.view(len(z), 2, 2, 6, 6).transpose(1, 2).contiguous().view(z.shape)


CARRY_ALL = {
    "to half the size": {
        "patches merged": patches_merged,
        "patches merged, shuffled": lambda z: nn.ChannelShuffle(2)(patches_merged(z)),
        "pixels unshuffled": nn.PixelUnshuffle(2),
    },
    "to more channels": {
        "zeros around": padded,
        "zeros beside": lambda z: torch.cat([z, z.new_zeros(len(z), 12, 6, 6)], 1),
        "times zero beside": lambda z: torch.cat([z, z.mul(0), 0 * z, z * 0], 1),
        "written into zeros": written_into_zeros,
        "repeated": lambda z: z.repeat(1, 4, 1, 1),
    },
    "of the same size": {
        "transposed": lambda z: z.transpose(2, 3),
        "flipped": lambda z: z.flip(1),
        "shifted": lambda z: z.roll((1, 1), (2, 3)),
        "shuffled": nn.ChannelShuffle(2),
        "shuffled by hand": by_hand,
        "reshaped": lambda z: z.flatten(1).reshape(z.shape).mT.permute(0, 1, 3, 2),
        "parts exchanged": lambda z: torch.cat(z.chunk(2, 1)[::-1], 1),
        "handed on": lambda z: nn.Identity()(
            functional.dropout(z.clone().to(z.dtype), training=False)
        ),
    },
}
DROP_SOME = {
    "to half the size": {
        "option A": lambda z: padded(every_second(z)),
        "zeros beside": lambda z: torch.cat([every_second(z), z.new_zeros(len(z), 12, 3, 3)], 1),
        "average pool": lambda z: padded(nn.AvgPool2d(2)(z)),
        "average pool that strides": lambda z: padded(nn.AvgPool2d(1, stride=2)(z)),
        "overlapping average": lambda z: padded(functional.avg_pool2d(z, 3, 2, 1)),
        "adaptive average": lambda z: padded(nn.AdaptiveAvgPool2d(3)(z)),
        "average repeated": lambda z: functional.avg_pool2d(z, 2).repeat(1, 4, 1, 1),
        "maximum": lambda z: padded(nn.MaxPool2d(2)(z)),
        "three of four patches": lambda z: padded(patches_merged(z)[:, :12], 2),
    },
    "to more channels": {
        "some written into zeros": lambda z: written_into_zeros(z[:, 1:]),
    },
    "of the same size": {
        "average": lambda z: functional.avg_pool2d(z, 3, 1, 1),
        "cropped and padded": lambda z: functional.pad(z[:, :, 1:-1, 1:-1], (1,) * 4, "reflect"),
        "every second repeated": lambda z: every_second(z).repeat(1, 1, 2, 2),
    },
}
LAYERS = {
    "to half the size": lambda: nn.Conv2d(4, 16, 3, 2, padding=1),
    "to more channels": lambda: nn.Conv2d(4, 16, 3, padding=1),
    "of the same size": conv,
}


def cases(shortcuts):
    return [
        pytest.param(size, function, id=f"{name}, {size}")
        for size, functions in shortcuts.items()
        for name, function in functions.items()
    ]


class Shortcut(nn.Module):
    """A shortcut, which is a function or a module, and a residual branch."""

    def __init__(self, join, shortcut, size):
        super().__init__()
        self.join, self.shortcut = join, shortcut
        self.f = nn.Sequential(conv(), nn.ReLU(inplace=True), LAYERS[size]())

    def forward(self, z):
        z = self.join(self.shortcut(z), self.f(torch.relu(z)))
        return every_second(z) if z[0].numel() > 144 else z


@pytest.mark.parametrize(("size", "shortcut"), cases(CARRY_ALL))
@pytest.mark.parametrize("join", JOINS)
def test_branch_beside_a_shortcut_that_carries_every_value_is_scaled(size, shortcut, join):
    assert_scaled_as_by_autograd(lambda how: Shortcut(how, shortcut, size), 1, JOINS[join])


@pytest.mark.parametrize(("size", "shortcut"), cases(DROP_SOME))
@pytest.mark.parametrize("join", JOINS)
def test_branch_beside_a_shortcut_that_drops_values_is_left_alone(size, shortcut, join):
    network = classifier(Shortcut(JOINS[join], shortcut, size))
    (connection,) = trace_connections(network, (3, 6, 6))
    assert (connection.residual, connection.in_part, connection.module) == (False, True, None)
    assert connection.reason == "its skip connection drops or pools values"


def added_to_some_channels(net, z, branch):
    y = branch(net.f(z).repeat(1, 2, 1, 1))
    y[:, 1:5] += z
    return y[:, :4]


def both_from_a_moved_value(net, z, branch):
    z = z.flip(1)
    return z.transpose(2, 3) + branch(net.f(z)).flip(3)


def with_first_token(z, first):
    tokens = z.flatten(2)
    return torch.cat([first(tokens), tokens[:, :, 1:]], 2).view(z.shape)


def concatenated(net, z, branch):
    y = torch.cat([z.flip(1), branch(net.f(z))], 1)
    return every_second(y).repeat(1, 2, 1, 1)


def moved_between_two_branches(net, z, branch):
    y = z + branch(net.f(z))
    return y.flip(2) + branch(net.g(y))


@pytest.mark.parametrize(
    ("forward", "modules"),
    [
        (lambda net, z, branch: z.flip(1) + branch(net.f(z)) + branch(net.g(z)), 2),
        (lambda net, z, branch: z.flip(1) + (branch(net.f(z)) + branch(net.g(z))), 2),
        (added_to_some_channels, 1),
        (both_from_a_moved_value, 1),
        (lambda net, z, branch: z.flip(1) + padded(branch(net.of_two(z[:, :2])), 1), 1),
        (concatenated, 1),
        (moved_between_two_branches, 2),
    ],
)
def test_values_are_followed_through_moves(forward, modules):
    network = classifier(Net(forward, lambda f: f))
    assert all(c.module for c in trace_connections(network, (3, 6, 6)) if c.residual)
    assert_scaled_as_by_autograd(partial(Net, forward), modules)


def class_attention(net, z, _):
    """As in VOLO: the class token alone has a residual branch, which uses the other tokens."""
    return with_first_token(z, lambda tokens: tokens[:, :, :1] + net.of_tokens(tokens))


NO_SHORTCUTS = {
    "convolution": lambda net, z, _: net.g(z) + net.f(z),
    "norm": lambda net, z, _: functional.instance_norm(z) + net.f(z),
    "activation": lambda net, z, _: torch.relu(z.flip(1)) + net.f(z),
    "times a number": lambda net, z, _: 0.5 * z + net.f(z),
    "gate": lambda net, z, _: z.flip(1) * torch.sigmoid(net.g(z)) + net.f(z),
    "both moved": lambda net, z, _: z.flip(1) + z.roll(1, 2),
    "both averaged": lambda net, z, _: z.flip(1) + functional.avg_pool2d(z, 3, 1, 1),
    "averages of maps": lambda net, z, _: (
        functional.adaptive_avg_pool2d(z, 1) + functional.adaptive_max_pool2d(z, 1)
    ).expand_as(z),
    "other half": lambda net, z, _: (z[:, :2] + net.of_two(z[:, 2:])).repeat(1, 2, 1, 1),
    "class token": class_attention,
}


@pytest.mark.parametrize("forward", NO_SHORTCUTS.values(), ids=NO_SHORTCUTS)
def test_what_computes_is_no_shortcut(forward):
    network = classifier(Net(forward))
    assert [c.residual for c in trace_connections(network, (3, 6, 6))] == [False]


def halves_beside(net, first, second):
    return torch.cat([first, net.of_two(second)], 1)


def rotated_without_class_token(net, z, _):
    """As in vision transformers with rotary positions."""
    tokens = z.flatten(2)
    return torch.cat([tokens[:, :, :0], torch.sin(tokens[:, :, 0:])], 2).view(z.shape)


NO_DENSE_CONNECTIONS = {
    # ShuffleNet-v2, but for its order of channels.
    "halves": lambda net, z, _: halves_beside(net, *z.chunk(2, 1)),
    "halves of what was moved": lambda net, z, _: halves_beside(
        net, *z.view(len(z), 2, 2, 6, 6).transpose(1, 2).unbind(1)
    ),
    "class token apart": lambda net, z, _: with_first_token(z, lambda t: t[:, :, :1].sigmoid()),
    # XCiT's class attention.
    "class token replaced": lambda net, z, _: with_first_token(z, net.of_tokens),
    "rotated without class token": rotated_without_class_token,
    "rotated, each flattened": lambda net, z, _: torch.cat(
        [z.flatten(2)[:, :, :0], torch.sin(z.flatten(2))], 2
    ).view(z.shape),
    # ShuffleNet-v1, where it halves the size.
    "average": lambda net, z, _: functional.pixel_shuffle(
        torch.cat([functional.avg_pool2d(z, 2), every_second(net.f(z))], 1), 2
    ).repeat(1, 2, 1, 1),
    "patches merged": lambda net, z, _: patches_merged(z).view(z.shape),
}


@pytest.mark.parametrize("forward", NO_DENSE_CONNECTIONS.values(), ids=NO_DENSE_CONNECTIONS)
def test_part_of_the_values_beside_the_rest_is_no_dense_connection(forward):
    assert trace_connections(classifier(Net(forward)), (3, 6, 6)) == []


def test_shortcut_that_is_a_module_is_not_hooked():
    class Padded(nn.Module):
        def forward(self, z):
            return padded(z)

    network = classifier(Shortcut(PLUS, Padded(), "to more channels"))
    (connection,) = trace_connections(network, (3, 6, 6))
    assert (connection.kind, connection.module) == ("addition", "1.f.2")
    register_hook_for_branches(network, GAMMA, (3, 6, 6))
    assert not network[1].shortcut._forward_hooks
