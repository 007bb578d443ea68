"""A network behind defences, used like a network without any."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from suite.defences.defence_names import split_defences
from suite.defences.inputs import BitDepth, FeatureDistillation, Jpeg
from suite.defences.purifier import load_purifier
from suite.defences.randomised import RandomDefence, RandomPadding, Smoothing
from suite.networks.classifier import Classifier, load_model
from suite.running.precision import DEFAULT
from suite.running.random_numbers import generators_for, image_generators
from suite.running.runs import sha256


class Defended(nn.Module):
    """A classifier behind defences, which is used as a `Classifier` is.

    Takes float pixels in [0, 1], N x 3 x H x W in RGB order, and returns N x classes logits. With
    smoothing these are N x (classes + 1): the last class is an abstention, which is neither a label
    nor a target class.

    Args:
        stack: the defences, see `split_defences`; the first one is applied first.
        purifier: file of nrp's weights.

    Attributes:
        classifier: the classifier without its defences.
        arch: its name.
        random: whether a defence draws random numbers.
        input_size, classes, digests: those of the classifier; `digests` has nrp's file as well.
    """

    def __init__(
        self,
        classifier: Classifier,
        arch: str,
        stack: Sequence[tuple[str, tuple]],
        purifier: Path | None = None,
    ):
        super().__init__()
        self.classifier = classifier
        self.arch = arch
        self.input_size = classifier.input_size
        self.digests = dict(classifier.digests)
        kinds = [kind for kind, _ in stack]
        if "smooth" in kinds and classifier.crop_pct:
            raise ValueError(
                f"{arch} enlarges and crops images, which would change the noise of smooth: take "
                "the network by a name that does not crop, as timm/... instead of ta-bench/..."
            )
        if "nrp" in kinds:
            self.digests[purifier.name] = sha256(purifier)
        make = {
            "jpeg": Jpeg,
            "bits": BitDepth,
            "fd": FeatureDistillation,
            "rp": RandomPadding,
            "smooth": partial(Smoothing, self.input_size[1:]),
            "nrp": partial(load_purifier, purifier),
        }
        self.defences = nn.ModuleList(make[kind](*values) for kind, values in stack)
        self.random = any(isinstance(defence, RandomDefence) for defence in self.defences)
        self.eval()

    @property
    def classes(self) -> int | None:
        """The number of classes without the abstention; None before `accelerate`."""
        return self.classifier.classes

    @property
    def others(self) -> tuple[int, ...]:
        """The numbers of values of its other outputs, see `Classifier.others`."""
        return self.classifier.others

    @property
    def class_names(self) -> Sequence[str]:
        """The names of the classes, see `Classifier.class_names`."""
        return self.classifier.class_names

    def forward(
        self, pixels: Tensor, generators: Sequence[torch.Generator] | None = None
    ) -> Tensor:
        """Return logits.

        Args:
            generators: one for each image, for the random defences; copied for another number of
                images. Without any, random numbers depend on the place in the batch.
        """
        if self.random and not generators:
            generators = image_generators(0, list(map(str, range(len(pixels)))))
        if self.random and len(generators) != len(pixels):
            generators = generators_for(len(pixels), generators)
        return self._logits(pixels, 0, generators)

    def _logits(self, pixels: Tensor, first: int, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the logits of the network behind its defences from the first one on."""
        if first == len(self.defences):
            return self.classifier(pixels)
        defence = self.defences[first]
        behind = partial(self._logits, first=first + 1, generators=generators)
        if isinstance(defence, RandomDefence):
            return defence(pixels, behind, generators)
        return behind(defence(pixels))

    def accelerate(self, precision: str = DEFAULT) -> "Defended":
        """Make the network's passes fast, see `Classifier.accelerate`."""
        self.classifier.accelerate(precision)
        # The authors of R&P show networks of this size the padded image without another resize.
        # Smoothing behind the padding needs the network's own size, though.
        kinds = [type(each) for each in self.defences if isinstance(each, RandomDefence)]
        if kinds[-1:] == [RandomPadding] and self.input_size == (3, 299, 299):
            self.classifier.input_size = (3, RandomPadding.padded, RandomPadding.padded)
        return self

    def class_name(self, index: int) -> str:
        """Return the name of a class, after `accelerate`."""
        return "no answer" if index == self.classes else self.classifier.class_name(index)


def is_random(network: nn.Module) -> bool:
    """Return whether a network has a random defence."""
    return isinstance(network, Defended) and network.random


class _ForBatch(nn.Module):
    """A defended network with the generators of one batch."""

    def __init__(self, network: Defended, generators: Sequence[torch.Generator] | None):
        super().__init__()
        self.network, self._generators = network, generators
        self.training = network.training

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network(pixels, self._generators)


def for_batch(network: nn.Module, generators: Sequence[torch.Generator] | None) -> nn.Module:
    """Return a network whose random defences draw from these per-image generators.

    See `Defended.forward` for another number of images. A network without random defences is
    returned as it is.
    """
    return _ForBatch(network, generators) if is_random(network) else network


def load_defended(
    name: str, checkpoints: Mapping[str, Path] | None = None
) -> Classifier | Defended:
    """Return a network by name, on the CPU, behind the defences in front of its name.

    Args:
        name: a name of `load_model`, alone or behind `DEFENCES`, as jpeg:75+bits:4+resnet50.
        checkpoints: files of weights by network names without defences; `nrp` is the purifier's.

    Raises:
        ValueError: no defence or network has that name, or weights are missing or not usable.
        OSError: weights are not on this machine and can't be downloaded.
    """
    checkpoints = checkpoints or {}
    stack, arch = split_defences(name)
    if "nrp" in dict(stack) and "nrp" not in checkpoints:
        raise ValueError(f"{name} needs the purifier's weights, under the name nrp")
    classifier = load_model(arch, checkpoint=checkpoints.get(arch))
    return Defended(classifier, arch, stack, checkpoints.get("nrp")) if stack else classifier


def undefended(network: nn.Module) -> nn.Module:
    """Return the classifier behind defences, or the network itself if it has none."""
    return network.classifier if isinstance(network, Defended) else network
