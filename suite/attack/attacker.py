"""An attack on one network or several, from tensors to tensors; SGM where gamma is below 1."""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import utils_sgm
from suite import networks
from suite.attack import attacks, in_front

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attack:
    """The settings of an L-infinity attack; by default PGD as in the SGM paper.

    Attributes:
        epsilon: largest perturbation of a pixel, in 1/255.
        step_size: of each step, in 1/255.
        num_steps: how many; one of size epsilon is FGSM.
        momentum: 0 for PGD, above 0 for MI-FGSM with that decay factor.
        di_prob, di_resize: DI's probability, and its largest size relative to the image's.
        ti_kernel, ti_sigma: TI's kernel size in pixels, odd, 1 for none; and how many standard
            deviations it reaches to each side.
        rand_init: whether to start at a random place in the ball.
        targeted: whether to approach the labels instead of leaving them.
        ensemble: "logits" averages the networks' logits, "gradients" adds gradients of norm 1.
        seed: of random starts, DI and random target classes.
    """

    epsilon: float = 16
    step_size: float = 2
    num_steps: int = 10
    momentum: float = 0
    di_prob: float = 0
    di_resize: float = 1.1
    ti_kernel: int = 1
    ti_sigma: float = 3
    rand_init: bool = False
    targeted: bool = False
    ensemble: str = "logits"
    seed: int = 0

    @property
    def name(self) -> str:
        """The field's name of the attack: PGD, MI-FGSM+DI, FGSM, ..."""
        if self.num_steps == 1 and self.step_size == self.epsilon:
            name = "FGSM"
        else:
            name = "MI-FGSM" if self.momentum else "PGD"
        name = "targeted " * self.targeted + name
        return name + "+DI" * (self.di_prob > 0) + "+TI" * (self.ti_kernel > 1)


@dataclass(frozen=True)
class Source:
    """A network that an attack takes gradients from.

    Attributes:
        network: from pixels in [0, 1], N x 3 x H x W, to logits, N x classes, in evaluation mode;
            one of `networks.load_model`, or any other module, whose attribute `input_size` says
            what it takes (224 if absent). Freeze it: gradients of parameters cost time.
        gamma: decay factor of the residual gradients, in (0, 1]; 1 is the plain attack.
        hooks, branches: see `utils_sgm.register_sgm`.
        name: of its architecture, by which the released hooks know it.
    """

    network: nn.Module
    gamma: float = 1
    hooks: str = "auto"
    branches: str | None = None
    name: str = ""


class Attacker:
    """Crafts adversarial images on its sources.

        attacker = Attacker(Attack(momentum=1), [Source(network, gamma=0.5)])
        adversarial = attacker(natural, labels)

    Attributes:
        attack, sources: what it was made from.
        hooks: of each source, "relu" or "branch".
        handles: take SGM off the sources again.
        logits: what the sources answer where the latest attack started, N x classes; an average.

    Raises:
        ValueError: a source is in training mode, or SGM can't be registered on it, see
            `utils_sgm.register_sgm`.
    """

    def __init__(self, attack: Attack, sources: Sequence[Source]):
        self.attack = attack
        self.sources = list(sources)
        self.hooks = [self._hooks(source) for source in self.sources]
        self.handles = [
            handle
            for source, hooks in zip(self.sources, self.hooks, strict=True)
            for handle in _register(source, hooks)
        ]
        self.logits: Tensor | None = None
        members = [source.network for source in self.sources]
        self._average = in_front.LogitEnsemble(members)
        self._diversity = in_front.InputDiversity(attack.di_prob, attack.di_resize)
        self._smoothing = in_front.TranslationInvariance(attack.ti_kernel, attack.ti_sigma)
        before = [self._smoothing] * (attack.ti_kernel > 1)
        before += [self._diversity] * (attack.di_prob > 0)
        by_gradients = attack.ensemble == "gradients"
        ensemble = in_front.GradientEnsemble(members) if by_gradients else self._average
        self._model = nn.Sequential(*before, ensemble)
        self._steps = attacks.make_attack(
            self._model,
            attack.epsilon,
            attack.step_size,
            attack.num_steps,
            attack.momentum,
            attack.targeted,
        )

    @property
    def name(self) -> str:
        """The names of the sources, and how they are an ensemble, for tables."""
        mode = self.attack.ensemble == "gradients" and len(self.sources) > 1
        return " + ".join(source.name for source in self.sources) + " (gradients)" * mode

    def __call__(
        self,
        natural: Tensor,
        labels: Tensor,
        generators: Sequence[torch.Generator] | None = None,
    ) -> Tensor:
        """Return adversarial pixels, float in [0, 1], within epsilon / 255 of the natural ones.

        Args:
            natural: float in [0, 1], N x 3 x H x W; unchanged.
            labels: N class indices: true ones, or the target classes if the attack is targeted;
                where -1, the class that the sources predict where the attack starts.
            generators: of each image's random numbers, of `image_generators`; if None, they depend
                on the seed and the place in the batch.
        """
        if generators is None:
            places = [str(place) for place in range(len(natural))]
            generators = attacks.image_generators(self.attack.seed, places)
        start = None
        if self.attack.rand_init:
            start = attacks.random_start(natural, self.attack.epsilon, generators)
        return self._perturbed(self._steps, natural, labels, generators, start)

    def predict(self, pixels: Tensor) -> Tensor:
        """Return the classes of the sources' average logits, N; see `networks.predict`."""
        return networks.predict(self._average, pixels)

    def rehearse(self, pixels: Tensor) -> None:
        """Make one step, as a trial of the memory that it takes."""
        one_step = attacks.make_attack(self._model, 1, 1, 1)
        generators = attacks.image_generators(0, [""] * len(pixels))
        labels = torch.zeros(len(pixels), device=pixels.device).long()
        self._perturbed(one_step, pixels, labels, generators)

    def _perturbed(self, steps, natural, labels, generators, start=None) -> Tensor:
        self._diversity.generators = generators
        self._smoothing.to(natural.device)
        result = attacks.perturb(steps, natural, labels, self.attack.epsilon, start)
        self.logits = steps.loss_fn.first
        return result

    def _hooks(self, source: Source) -> str:
        # Where logits are averaged, relu hooks would rescale each network's gradient by itself.
        averaged = len(self.sources) > 1 and self.attack.ensemble == "logits"
        hooks = "branch" if averaged and source.hooks == "auto" else source.hooks
        return utils_sgm.choose_hooks(source.name, hooks, source.branches)


def _register(source: Source, hooks: str) -> list:
    """Register SGM on a source, and see to it that it changes the gradient."""
    network, size = source.network, networks.input_size(source.network)
    if network.training:
        raise ValueError(f"{source.name or 'a source'} is in training mode: call its eval() first")
    if isinstance(network, networks.Classifier):
        network = network.network
    plain = _gradient(source.network, size) if source.gamma < 1 else None
    handles = utils_sgm.register_sgm(
        network, source.name, source.gamma, hooks, size, source.branches
    )
    if source.gamma < 1 and plain.any() and plain.equal(_gradient(source.network, size)):
        raise ValueError(
            f"gamma {source.gamma:g} leaves the gradient of {source.name or 'a source'} as it is: "
            f"its {len(handles)} hooks don't run, as in compiled parts, or branches return zeros"
        )
    logger.info("%s: gamma %g, %d hooks", source.name, source.gamma, len(handles))
    return handles


def _gradient(network: nn.Module, size: tuple[int, int, int]) -> Tensor:
    """Return the gradient of the logits' squares at a random image."""
    some = next(itertools.chain(network.parameters(), network.buffers()), torch.empty(0))
    pixels = torch.rand(1, *size, generator=torch.Generator().manual_seed(0)).to(some.device)
    logits = network(pixels.requires_grad_().clone())
    if not logits.requires_grad:
        raise ValueError("no gradient goes through this network: it turns them off (no_grad, ...)")
    logits.square().sum().backward()  # which re-entrant checkpointing needs
    return pixels.grad
