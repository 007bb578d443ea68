"""The networks that an attack takes gradients from, and SGM on them."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

import utils_sgm
from suite.attack.ensembles import LogitEnsemble
from suite.defences.defended import Defended, for_batch, undefended
from suite.networks.answer_checks import refuse_no_answer
from suite.networks.classifier import Classifier, predict_logits, predicted_classes
from suite.running.random_numbers import image_generators, seed_globals
from suite.user_code.input_sizes import input_size
from suite.user_code.process_settings import contained

logger = logging.getLogger(__name__)


@dataclass
class Source:
    """A network that an attack takes gradients from.

    Attributes:
        network: from pixels in [0, 1], N x 3 x H x W, to logits, N x classes, in evaluation mode;
            one of `classifier.load_model`, or any other module, whose attribute `input_size` says
            what it takes (224 if absent). Freeze it: gradients of parameters cost time. A network
            of `defended.load_defended` is attacked through its defences; gamma and hooks are for
            the classifier behind them.
        gamma: decay factor of the residual gradients, in (0, 1]; 1 is the plain attack. With
            `branches` also 0.
        hooks: "relu" or "branch"; "auto" becomes one of them, see `utils_sgm.choose_hooks`.
        branches: see `utils_sgm.register_sgm`.
        name: of its architecture, by which the released hooks know it.
        handles: take SGM off again.

    Raises:
        ValueError: the network is in training mode, or there are no such hooks.
    """

    network: nn.Module
    gamma: float = 1
    hooks: str = "auto"
    branches: str | None = None
    name: str = ""
    handles: list[RemovableHandle] = field(default_factory=list, init=False)

    def __post_init__(self):
        if self.network.training:
            raise ValueError(
                f"{self.name or 'a source'} is in training mode: call its eval() first"
            )
        self.hooks = utils_sgm.choose_hooks(self.architecture, self.hooks, self.branches)

    @property
    def architecture(self) -> str:
        """The name of the network behind its defences."""
        return self.network.arch if isinstance(self.network, Defended) else self.name

    def register_sgm(self) -> list[RemovableHandle]:
        """Scale the residual gradients by gamma, from now on, and return the handles.

        Raises:
            ValueError: SGM does not change the gradient, or leaves none.
        """
        network, size = undefended(self.network), input_size(self.network)
        bare = network.network if isinstance(network, Classifier) else network
        plain = _gradient_at_noise(network, size) if self.gamma < 1 else None
        with contained():  # the pass that finds the branches
            self.handles = utils_sgm.register_sgm(
                bare, self.architecture, self.gamma, self.hooks, size, self.branches
            )
        logger.info(
            "%s: gamma %g, %d hooks", self.name or "a source", self.gamma, len(self.handles)
        )
        if self.gamma < 1 and plain.any():
            self._refuse_no_effect(plain, _gradient_at_noise(network, size))
        return self.handles

    def _refuse_no_effect(self, plain: Tensor, scaled: Tensor) -> None:
        name, number = self.name or "a source", len(self.handles)
        if plain.equal(scaled):
            raise ValueError(
                f"gamma {self.gamma:g} leaves the gradient of {name} as it is: its {number} hooks "
                "don't run, as in compiled parts, or branches return zeros"
            )
        if not scaled.any():
            raise ValueError(
                f"gamma {self.gamma:g} leaves no gradient of {name}: all of it goes through the "
                f"{number} modules of branches {self.branches!r}, past which none skips"
            )


def _gradient_at_noise(network: nn.Module, size: tuple[int, int, int]) -> Tensor:
    """Return the gradient of the logits' squares at a random image."""
    noise = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    seed_globals(0, ["noise"])  # so that a network that draws does not hide what a hook does
    some = next(itertools.chain(network.parameters(), network.buffers()), noise)
    pixels = noise.to(some.device).requires_grad_()
    with contained():
        logits = network(pixels.clone())
        if not logits.requires_grad:
            reason = "it turns them off (no_grad, ...)"
            raise ValueError(f"no gradient goes through this network: {reason}")
        logits.square().sum().backward()  # which re-entrant checkpointing needs
    return pixels.grad


@dataclass(frozen=True)
class Sources:
    """The sources of an attack, one or an ensemble, and what they answer together.

    Args:
        sources: one of each network.
        ensemble, seed: as in `settings.Attack`.
    """

    sources: Sequence[Source]
    ensemble: str = "logits"
    seed: int = 0

    @property
    def networks(self) -> list[nn.Module]:
        """The sources' networks."""
        return [source.network for source in self.sources]

    @property
    def name(self) -> str:
        """The names of the sources, and how they are an ensemble, for tables."""
        by_gradients = self.ensemble == "gradients" and len(self.sources) > 1
        return " + ".join(s.name for s in self.sources) + " (gradients)" * by_gradients

    @property
    def gamma(self) -> float | list[float]:
        """The gamma of all sources, or of each where they differ."""
        gammas = [source.gamma for source in self.sources]
        return gammas[0] if len(set(gammas)) == 1 else gammas

    def logits(self, pixels: Tensor, names: Sequence[str]) -> Tensor:
        """Return the average logits, N x classes, without a graph behind them.

        Args:
            pixels: float in [0, 1], N x 3 x H x W.
            names: of the images, on which all that is drawn depends.
        """
        seed_globals(self.seed, names)
        generators = image_generators(self.seed, names)
        members = [for_batch(network, generators) for network in self.networks]
        return predict_logits(LogitEnsemble(members), pixels)

    def classes(self, logits: Tensor) -> list[int]:
        """Return the classes that average logits, N x classes, stand for.

        Raises:
            ValueError: logits are not finite.
        """
        answers = predicted_classes(logits).tolist()
        refuse_no_answer(self.name, answers)
        return answers
