"""A network behind its defences, as the networks without are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from suite.defences import defence_names
from suite.defences.inputs import BitDepth, FeatureDistillation, Jpeg
from suite.defences.purifier import load_purifier
from suite.defences.randomised import Randomised, RandomPadding, Smoothing
from suite.networks.classifier import Classifier, load_model
from suite.running import random_numbers
from suite.running.precision import DEFAULT
from suite.running.runs import sha256

# The size at which the authors of R&P show their network what was padded.
RP_NATIVE = 299


class Defended(nn.Module):
    """A classifier behind defences, which has what `networks.Classifier` has.

    Takes float pixels in [0, 1], N x 3 x H x W in RGB order; where a gradient is wanted, random
    defences make one pass with one draw. Returns N x classes logits, with smoothing N x (classes +
    1): the last class is an abstention, which is no label and no target class.

    Args:
        stack: the defences, the first one first.
        purifier: the file of nrp's weights.

    Attributes:
        classifier: without its defences.
        arch: its name.
        generators: of the images of the current batch, set before each pass; if empty, random
            numbers depend on the place in the batch.
        input_size, classes, digests, weights, own: as the classifier's; to the digests comes that
            of the purifier.
    """

    def __init__(
        self,
        classifier: Classifier,
        arch: str,
        stack: Sequence[defence_names.Defence],
        purifier: Path | None = None,
    ):
        super().__init__()
        self.classifier = classifier
        self.arch = arch
        self.input_size = classifier.input_size
        self.weights, self.own = classifier.weights, classifier.own
        self.digests = dict(classifier.digests)
        self.generators: Sequence[torch.Generator] = ()
        self._kinds = [defence.kind for defence in stack]
        self.whole: nn.Module = classifier
        for kind, values in reversed(stack):
            if kind == "rp":
                self.whole = RandomPadding(self.whole)
            elif kind == "smooth":
                if classifier.crop_pct:
                    raise ValueError(
                        f"{arch} enlarges what it gets and crops it, the noise of smooth too: take "
                        "the network by a name without that, as timm/... instead of ta-bench/..."
                    )
                self.whole = Smoothing(self.whole, self.input_size[1:], *values)
            else:
                self.whole = nn.Sequential(self._module(kind, values, purifier), self.whole)
        self.eval()

    def _module(self, kind: str, values: tuple, purifier: Path | None) -> nn.Module:
        if kind == "nrp":
            self.digests[purifier.name] = sha256(purifier)
            return load_purifier(purifier)
        return {"jpeg": Jpeg, "bits": BitDepth, "fd": FeatureDistillation}[kind](*values)

    @property
    def random(self) -> bool:
        """Whether a defence draws."""
        return any(kind in defence_names.RANDOM for kind in self._kinds)

    @property
    def classes(self) -> int | None:
        """How many there are, without the abstention; None before `accelerate`."""
        return self.classifier.classes

    def forward(self, pixels: Tensor) -> Tensor:
        places = [str(place) for place in range(len(pixels))]
        generators = self.generators or random_numbers.image_generators(0, places)
        if len(generators) != len(pixels):  # an attack of the user's may pass one image, or copies
            generators = random_numbers.generators_for(len(pixels), generators)
        for module in self.modules():
            if isinstance(module, Randomised):
                module.generators = generators
        return self.whole(pixels)

    def accelerate(self, precision: str = DEFAULT) -> "Defended":
        """Make the network's passes fast, see `networks.Classifier.accelerate`."""
        self.classifier.accelerate(precision)
        last = [kind for kind in self._kinds if kind in defence_names.RANDOM][-1:]
        if last == ["rp"] and self.input_size[1:] == (RP_NATIVE, RP_NATIVE):
            # As with their authors, these networks see the padded image without another resize;
            # unless smoothing stands between, whose noise is of the network's own size.
            padded = RandomPadding.padded
            self.classifier.input_size = (self.input_size[0], padded, padded)
        return self

    def class_name(self, index: int) -> str:
        """Return what a class is called, after `accelerate`."""
        return "no answer" if index == self.classes else self.classifier.class_name(index)


def load_defended(
    name: str, checkpoints: Mapping[str, Path] | None = None
) -> "Classifier | Defended":
    """Return a network by name, on the CPU, behind the defences in front of its name.

    Args:
        name: `jpeg:75+bits:4+resnet50`: defences of `suite.running.defended.DEFENCES`, the first
            one first, and a name of `networks.load_model`; or such a name alone.
        checkpoints: files of weights by bare names; `nrp` is the purifier's.

    Raises:
        ValueError: no defence or network has that name, or a file of weights is missing or not
            usable.
        OSError: weights are not on this machine and can't be downloaded.
    """
    checkpoints = checkpoints or {}
    stack, arch = defence_names.split_defences(name)
    purified = any(defence.kind == "nrp" for defence in stack)
    if purified and "nrp" not in checkpoints:
        raise ValueError(f"{name} needs the purifier's weights, under the name nrp")
    classifier = load_model(arch, checkpoint=checkpoints.get(arch))
    if not stack:
        return classifier
    return Defended(classifier, arch, stack, checkpoints.get("nrp"))


def undefended(network: nn.Module) -> nn.Module:
    """Return the classifier behind defences; a network without any as it is."""
    return network.classifier if isinstance(network, Defended) else network


def draw_from(network: nn.Module, generators: Sequence[torch.Generator]) -> None:
    """Give a network's random defences, if it has any, the generators of the next images."""
    if isinstance(network, Defended):
        network.generators = generators
