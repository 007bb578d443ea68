"""The networks that an attack takes gradients from, and SGM on them."""

import itertools
import logging
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import utils_sgm
from suite.defences.defended import Defended, undefended
from suite.networks.classifier import Classifier
from suite.user_code.input_sizes import input_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A network that an attack takes gradients from.

    Attributes:
        network: from pixels in [0, 1], N x 3 x H x W, to logits, N x classes, in evaluation mode;
            one of `networks.load_model`, or any other module, whose attribute `input_size` says
            what it takes (224 if absent). Freeze it: gradients of parameters cost time. Through
            the defences of one of `defences.load` goes the attack; gamma and hooks are the
            classifier's behind them.
        gamma: decay factor of the residual gradients, in (0, 1]; 1 is the plain attack. With
            `branches` also 0.
        hooks, branches: see `utils_sgm.register_sgm`.
        name: of its architecture, by which the released hooks know it.
    """

    network: nn.Module
    gamma: float = 1
    hooks: str = "auto"
    branches: str | None = None
    name: str = ""

    @property
    def architecture(self) -> str:
        """The name without that of defences."""
        return self.network.arch if isinstance(self.network, Defended) else self.name

    @property
    def random(self) -> bool:
        """Whether the network has a defence that draws."""
        return isinstance(self.network, Defended) and self.network.random


def register(source: Source, hooks: str) -> list:
    """Register SGM on a source, see to it that it changes the gradient, and return the handles.

    Args:
        hooks: "relu" or "branch".

    Raises:
        ValueError: the source is in training mode, or SGM changes nothing or leaves no gradient.
    """
    network, size = source.network, input_size(source.network)
    if network.training:
        raise ValueError(f"{source.name or 'a source'} is in training mode: call its eval() first")
    whole = network = undefended(network)
    if isinstance(network, Classifier):
        network = network.network
    plain = _gradient(whole, size) if source.gamma < 1 else None
    handles = utils_sgm.register_sgm(
        network, source.architecture, source.gamma, hooks, size, source.branches
    )
    if source.gamma < 1 and plain.any():
        scaled, name = _gradient(whole, size), source.name or "a source"
        if plain.equal(scaled):
            raise ValueError(
                f"gamma {source.gamma:g} leaves the gradient of {name} as it is: its "
                f"{len(handles)} hooks don't run, as in compiled parts, or branches return zeros"
            )
        if not scaled.any():
            raise ValueError(
                f"gamma {source.gamma:g} leaves no gradient of {name}: all of it goes through the "
                f"{len(handles)} modules of branches {source.branches!r}, past which none skips"
            )
    logger.info("%s: gamma %g, %d hooks", source.name, source.gamma, len(handles))
    return handles


def _gradient(network: nn.Module, size: tuple[int, int, int]) -> Tensor:
    """Return the gradient of the logits' squares at a random image."""
    pixels = torch.rand(1, *size, generator=torch.Generator().manual_seed(0)).to(device_of(network))
    logits = network(pixels.requires_grad_().clone())
    if not logits.requires_grad:
        raise ValueError("no gradient goes through this network: it turns them off (no_grad, ...)")
    logits.square().sum().backward()  # which re-entrant checkpointing needs
    return pixels.grad


def device_of(network: nn.Module) -> torch.device:
    """Return where a network is; the CPU if it has no tensors."""
    some = next(itertools.chain(network.parameters(), network.buffers()), torch.empty(0))
    return some.device
