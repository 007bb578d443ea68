"""An attack on one network or several, from tensors to tensors; SGM where gamma is below 1."""

import logging
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

import utils_sgm
from suite.attack.attacks import make_attack, perturb, random_start
from suite.attack.gradients import GradientLoss
from suite.attack.in_front import (
    GradientEnsemble,
    InputDiversity,
    LogitEnsemble,
    TranslationInvariance,
)
from suite.attack.losses import SummedLoss
from suite.attack.pool import Pool
from suite.attack.settings import Attack
from suite.attack.sources import Source, device_of, register
from suite.attack.transformations import Admix, BlockShuffle
from suite.defences.defended import draw_from
from suite.images.folders import in_batches
from suite.images.pictures import to_float
from suite.networks.answer_checks import refuse_no_answer
from suite.networks.classifier import predict_classes, predict_logits, predicted_classes
from suite.running import devices, random_numbers

logger = logging.getLogger(__name__)


class Attacker:
    """Crafts adversarial images on its sources.

        attacker = Attacker(Attack(momentum=1), [Source(network, gamma=0.5)])
        adversarial = attacker(natural, labels)

    Args:
        pool: the images that Admix mixes in, of the size of those that are attacked.

    Attributes:
        attack, sources: what it was made from.
        hooks: of each source, "relu" or "branch".
        handles: take SGM off the sources again.
        logits: what the sources answer where the latest attack started, N x classes; an average.

    Raises:
        ValueError: a source is in training mode, or SGM can't be registered on it, see
            `utils_sgm.register_sgm`; Admix has no pool, or one of a single class.
    """

    def __init__(self, attack: Attack, sources: Sequence[Source], pool: Pool | None = None):
        self.attack = attack
        self.sources = list(sources)
        self.hooks = [self._hooks(source) for source in self.sources]
        self.handles = [
            handle
            for source, hooks in zip(self.sources, self.hooks, strict=True)
            for handle in register(source, hooks)
        ]
        self.logits: Tensor | None = None
        members = [source.network for source in self.sources]
        self._average = LogitEnsemble(members)
        by_gradients = attack.ensemble == "gradients"
        self._model = members[0] if len(members) == 1 else self._average
        self._ensemble = GradientEnsemble(members) if by_gradients else self._average
        self._diversity = InputDiversity(attack.di_prob, attack.di_resize)
        self._smoothing = TranslationInvariance(attack.ti_kernel, attack.ti_sigma)
        self._shuffle = BlockShuffle()
        self._admix = Admix(self._labelled(pool), attack.admix_ratio) if attack.admix else None
        self._steps = self._made(attack)
        if attack.evaluations > 1:
            logger.info(
                "%s: %d gradient evaluations a step, of which PGD takes 1",
                attack.name,
                attack.evaluations,
            )

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each file that the sources, and an attack of the user's, were made from."""
        made_of = [source.network for source in self.sources]
        made_of += [self.attack.user] if self.attack.user else []
        return {file: digest for each in made_of for file, digest in each.digests.items()}

    @property
    def name(self) -> str:
        """The names of the sources, and how they are an ensemble, for tables."""
        mode = self.attack.ensemble == "gradients" and len(self.sources) > 1
        return " + ".join(source.name for source in self.sources) + " (gradients)" * mode

    @property
    def gamma(self) -> float | list[float]:
        """The gamma of all sources, or of each where they differ."""
        gammas = [source.gamma for source in self.sources]
        return gammas[0] if len(set(gammas)) == 1 else gammas

    def __call__(
        self,
        natural: Tensor,
        labels: Tensor,
        generators: Sequence[torch.Generator] | None = None,
        classes: Tensor | None = None,
    ) -> Tensor:
        """Return adversarial pixels, float in [0, 1], within epsilon / 255 of the natural ones.

        Args:
            natural: float in [0, 1], N x 3 x H x W; unchanged.
            labels: N class indices: true ones, or the target classes if the attack is targeted;
                where -1, the class that the sources predict where the attack starts.
            generators: of each image's random numbers, of `image_generators`; if None, they depend
                on the seed and the place in the batch.
            classes: N class indices, of which Admix mixes no images in; the labels if None. A
                targeted attack has others.

        Raises:
            ValueError: Admix's pool has images of another size.
        """
        if self._admix and self._admix.pixels.shape[1:] != natural.shape[1:]:
            own, other = (tuple(x.shape[2:]) for x in (natural, self._admix.pixels))
            raise ValueError(f"images of {own} pixels, but those that Admix mixes in are {other}")
        if generators is None:
            places = [str(place) for place in range(len(natural))]
            generators = random_numbers.image_generators(self.attack.seed, places)
        if self.attack.user:
            self._defences_draw_from(generators)
            self.logits = predict_logits(self._average, natural)
            labels = torch.where(labels < 0, predicted_classes(self.logits), labels)
            return self.attack.user(self._model, natural, labels, self.attack, generators)
        start = None
        if self.attack.rand_init:
            start = random_start(natural, self.attack.epsilon, generators)
        return self._perturbed(self._steps, natural, labels, generators, start, classes)

    def predict(
        self, pixels: Tensor, generators: Sequence[torch.Generator] | None = None
    ) -> Tensor:
        """Return the classes of the sources' average logits, N; see `networks.predict`.

        Args:
            generators: of random defences; if None, they depend on the place in the batch.
        """
        self._defences_draw_from(generators or ())
        return predict_classes(self._average, pixels)

    def rehearse(self, pixels: Tensor) -> None:
        """Make a step, with two copies at most, as a trial of the memory that it takes."""
        attack = replace(
            self.attack,
            epsilon=1,
            step_size=1,
            num_steps=2 if self.attack.variance else 1,
            momentum=0,
            nesterov=False,
            targeted=False,
            scales=min(2, self.attack.scales),
            variance=min(1, self.attack.variance),
            admix=0,  # whose images may have another size
            block_shuffle=min(2, self.attack.block_shuffle),
            eot=min(2, self.attack.eot),
            user=None,
        )
        generators = random_numbers.image_generators(0, [""] * len(pixels))
        labels = torch.zeros(len(pixels), device=pixels.device).long()
        self._perturbed(self._made(attack), pixels, labels, generators)

    def _made(self, attack: Attack) -> object:
        """Return advertorch's loop for the sources, with the gradient of an attack."""
        loss: SummedLoss | GradientLoss = SummedLoss(attack.loss)
        smoothing = [self._smoothing] * (attack.ti_kernel > 1)
        before = [self._diversity] * (attack.di_prob > 0)
        if attack.one_pass:
            model = nn.Sequential(*smoothing, *before, self._ensemble)
        else:
            before = [self._shuffle] * (attack.block_shuffle > 0) + before
            passed, model = nn.Sequential(*before, self._ensemble), nn.Identity()
            loss = GradientLoss(attack, loss, passed, self._ensemble, self._admix, *smoothing)
        return make_attack(
            model,
            attack.epsilon,
            attack.step_size,
            attack.num_steps,
            attack.momentum,
            attack.targeted,
            loss,
        )

    def _perturbed(self, steps, natural, labels, generators, start=None, classes=None) -> Tensor:
        self._diversity.generators = self._shuffle.generators = generators
        self._defences_draw_from(generators)
        self._smoothing.to(natural.device)
        if self._admix:
            self._admix.to(natural.device).generators = generators
        if isinstance(steps.loss_fn, GradientLoss):
            steps.loss_fn.generators, steps.loss_fn.classes = generators, classes
        result = perturb(steps, natural, labels, self.attack.epsilon, start)
        self.logits = steps.loss_fn.first
        return result

    def _defences_draw_from(self, generators: Sequence[torch.Generator]) -> None:
        for source in self.sources:
            draw_from(source.network, generators)

    def _labelled(self, pool: Pool | None) -> Pool:
        """Return Admix's pool with the sources' answers where labels are not known."""
        if pool is None:
            raise ValueError("Admix mixes images in: it needs a pool of them, as of read_pool")
        labels, device = pool.labels.clone(), device_of(self.sources[0].network)
        unknown, parts = (labels < 0).nonzero().flatten(), devices.Parts()
        for batch in in_batches(unknown.tolist(), devices.batch_size(str(device))):
            floats = to_float(pool.pixels[batch].to(device))
            answers = parts(lambda part, floats=floats: self.predict(floats[part]), len(batch))
            labels[batch] = torch.cat(answers).to(labels)
        refuse_no_answer(self.name, labels.tolist())
        if len(labels.unique()) < 2:
            raise ValueError(
                f"Admix mixes in images of other classes, but all {len(labels)} are of one class"
            )
        return Pool(pool.pixels, labels)

    def _hooks(self, source: Source) -> str:
        # Where networks or passes are averaged, relu hooks would rescale each gradient by itself.
        several = len(self.sources) > 1 or self.attack.evaluations > 1 or self.attack.user
        averaged = several and self.attack.ensemble == "logits"
        hooks = "branch" if averaged and source.hooks == "auto" else source.hooks
        return utils_sgm.choose_hooks(source.architecture, hooks, source.branches)
