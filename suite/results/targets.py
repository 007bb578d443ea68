"""The target networks, and their answers to the same images."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
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

CHUNK = 32  # batches that wait in memory while networks take turns


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
        chunks = iter(lambda: list(islice(batches, 1 if self._together else CHUNK)), [])
        for chunk, work in devices.ahead(chunks, self._launch, self._device):
            sizes = [len(batch) for batch, _ in chunk]
            found = {arch: numbers.split(sizes, 1) for arch, numbers in work.wait().items()}
            for place, (batch, pixels) in enumerate(chunk):
                answers = {}
                for arch, numbers in found.items():
                    answers[arch] = [
                        Answer(int(index), None if image.label is None else probability)
                        for image, (index, probability) in zip(
                            batch, numbers[place].T.tolist(), strict=True
                        )
                    ]
                    refuse_no_answer(arch, [answer.index for answer in answers[arch]])
                yield batch, pixels, answers

    def _launch(
        self, chunk: list[tuple[list[LabelledImage], Tensor]]
    ) -> tuple[list, devices.Launched]:
        """Return the chunk, and by network the answers to all its images, 2 x N, as `Launched`."""
        labels = [torch.tensor([image.label or 0 for image in batch]) for batch, _ in chunk]
        asked = [(batch, each, own) for (batch, each), own in zip(chunk, labels, strict=True)]
        if self._together:  # one copy for all networks
            asked = [self._on_device(*each) for each in asked]

        def predicted(arch: str, model: Classifier) -> Tensor:
            return torch.cat([self._predicted(arch, model, *each) for each in asked], 1)

        return chunk, devices.Launched(self._device, partial(self.each, predicted))

    def _on_device(
        self, batch: list[LabelledImage], *tensors: Tensor
    ) -> tuple[list[LabelledImage], Tensor, Tensor]:
        return batch, *(devices.to_device(each, self._device) for each in tensors)

    def each(self, function: Callable[[str, Classifier], PerTarget]) -> dict[str, PerTarget]:
        """Call a function with each name and network, on the device; return its values by name."""
        values = {}
        try:
            for arch, model in self.networks.items():
                if next(model.buffers()).device != torch.device(self._device):
                    model.to(self._device)
                values[arch] = function(arch, model)
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
        self,
        arch: str,
        model: Classifier,
        batch: list[LabelledImage],
        pixels: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Return a network's classes and the labels' probabilities, 2 x N, for uint8 pixels."""
        if not batch:  # none of its images was readable
            return torch.empty(2, 0, dtype=torch.double, device=self._device)
        names = [image.name for image in batch]
        _, pixels, labels = self._on_device(batch, pixels, labels)

        def predict(part: slice) -> Tensor:
            logits = self.logits(model, names[part], to_float(pixels[part]))
            probabilities = logits.softmax(1).gather(1, labels[part, None])[:, 0]
            return torch.stack([predicted_classes(logits).double(), probabilities.double()])

        answer = torch.cat(self._parts(predict, len(pixels)), 1)
        if arch in self._unchecked and self._parts.most != 1:
            self._unchecked.remove(arch)
            warn_of_answers(arch, undefended(model), to_float(pixels[:2]))
        return answer
