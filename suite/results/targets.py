"""The target networks, and their answers to the same images."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from suite.defences.defended import for_batch, load_defended, undefended
from suite.images.labels import LabelledImage
from suite.images.pictures import to_float
from suite.networks.answer_checks import refuse_no_answer, warn_of_answers
from suite.networks.classifier import Classifier, predict_logits, predicted_classes
from suite.running import devices, random_numbers
from suite.running.precision import DEFAULT

logger = logging.getLogger(__name__)
PerTarget = TypeVar("PerTarget")

CHUNK = 64  # batches that wait in memory while networks take turns


class Answer(NamedTuple):
    """A network's answer to an image."""

    index: int  # of the class that it predicts
    probability: float | None  # of the image's label; None without a label


class Targets:
    """Networks on a device, where they take turns if its memory can't hold them together.

    Args:
        archs: names of networks, see `load_defended`; `networks` has each network by its name.
        checkpoints: files of weights by the names of networks without their defences.
        precision: see `Classifier.accelerate`.
        seed: random seed of the defences, and of networks that draw.
    """

    def __init__(
        self,
        archs: Sequence[str],
        checkpoints: Mapping[str, Path],
        device: str,
        precision: str = DEFAULT,
        seed: int = 0,
    ):
        self.networks = {
            arch: load_defended(arch, checkpoints).accelerate(precision) for arch in archs
        }
        self._seed = seed
        self._device = device
        self._together = True
        self._parts = devices.Parts()
        self._unchecked = set(archs)

    def answers(
        self, batches: Iterable[tuple[list[LabelledImage], Tensor]]
    ) -> Iterator[tuple[list[LabelledImage], Tensor, dict[str, list[Answer]]]]:
        """Yield batches and their pixels, uint8 N x 3 x H x W, with the answers of each network."""
        batches = iter(batches)
        while chunk := list(islice(batches, 1 if self._together else CHUNK)):
            asked = chunk
            if self._together:  # one copy for all networks
                asked = [(batch, devices.to_device(each, self._device)) for batch, each in chunk]

            def predicted(arch: str, model: Classifier, asked=asked) -> list[Tensor]:
                return [self._predicted(arch, model, *each) for each in asked]

            found = self.each(predicted)
            for (batch, pixels), *numbers in zip(chunk, *found.values(), strict=True):
                # One transfer for all networks, since each waits for the device.
                listed = torch.stack(numbers).tolist()
                answers = {}
                for arch, own in zip(found, listed, strict=True):
                    answers[arch] = [
                        Answer(int(index), None if image.label is None else probability)
                        for image, index, probability in zip(batch, *own, strict=True)
                    ]
                    refuse_no_answer(arch, [answer.index for answer in answers[arch]])
                yield batch, pixels, answers

    def each(self, function: Callable[[str, Classifier], PerTarget]) -> dict[str, PerTarget]:
        """Call a function with each name and network, on the device; return its values by name."""
        values = {}
        try:
            for arch, model in self.networks.items():
                values[arch] = function(arch, model.to(self._device))
                if not self._together:
                    model.to("cpu")
            return values
        except (RuntimeError, MemoryError) as error:
            if len(self.networks) == 1 or not (self._together and devices.out_of_memory(error)):
                raise
        logger.warning("the networks don't fit into memory together: they take turns")
        self._together = False
        self._parts = devices.Parts()
        for model in self.networks.values():
            model.to("cpu")
        return self.each(function)

    def logits(self, model: nn.Module, names: Sequence[str], pixels: Tensor) -> Tensor:
        """Return a network's logits, N x classes, for pixels in [0, 1].

        Args:
            names: the images' names, on which all that is drawn depends.
        """
        random_numbers.seed_globals(self._seed, names)
        generators = random_numbers.image_generators(self._seed, names)
        return predict_logits(for_batch(model, generators), pixels)

    def _predicted(
        self, arch: str, model: Classifier, batch: list[LabelledImage], pixels: Tensor
    ) -> Tensor:
        """Return a network's classes and the labels' probabilities, 2 x N, for uint8 pixels."""
        if not batch:  # none of its images was readable
            return torch.empty(2, 0)
        names = [image.name for image in batch]
        labels = torch.tensor([[image.label or 0] for image in batch])

        def floats(part: slice) -> Tensor:
            return to_float(pixels[part].to(self._device))

        def predict(part: slice) -> Tensor:
            logits = self.logits(model, names[part], floats(part))
            probabilities = logits.softmax(1).gather(1, labels[part].to(logits.device))[:, 0]
            return torch.stack([predicted_classes(logits).double(), probabilities.double()])

        answer = torch.cat(self._parts(predict, len(pixels)), 1)
        if arch in self._unchecked and self._parts.most != 1:
            self._unchecked.remove(arch)
            warn_of_answers(arch, undefended(model), floats(slice(0, 2)))
        return answer if self._together else answer.cpu()
