"""Several networks' answers to the same images, each of which is read once."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from suite.defences.defended import draw_from, load_defended, undefended
from suite.images.labels import LabelledImage
from suite.images.pictures import to_float
from suite.networks.answer_checks import refuse_no_answer, warn_of_batch_dependence
from suite.networks.classifier import (
    Classifier,
    depends_on_batch,
    predict_logits,
    predicted_classes,
)
from suite.running import devices, random_numbers
from suite.running.precision import DEFAULT

logger = logging.getLogger(__name__)
PerTarget = TypeVar("Value")

CHUNK = 64  # batches that wait in memory while networks take turns


class Answer(NamedTuple):
    """What a network says of an image: its class, and the probability of the image's label.

    The probability is None where the image has no label.
    """

    index: int
    probability: float | None


class Targets:
    """Networks on a device, which take turns there if its memory can't hold them together.

    Args:
        archs: names of networks, as of `defences.load`.
        checkpoints: files of weights by the names of networks without their defences.
        precision: see `networks.Classifier.accelerate`.
        seed: of random defences.

    Attributes:
        networks: by name.
    """

    def __init__(
        self,
        archs: list[str],
        checkpoints: dict[str, Path],
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
        self._there: set[str] = set()

    def answers(
        self, batches: Iterable[tuple[list[LabelledImage], Tensor]]
    ) -> Iterator[tuple[list[LabelledImage], Tensor, dict[str, list[Answer]]]]:
        """Yield batches and their pixels, uint8 N x 3 x H x W, with the answers of each network."""
        batches = iter(batches)
        while chunk := list(islice(batches, 1 if self._together else CHUNK)):
            pixels = [natural for _, natural in chunk]
            labels = [torch.tensor([image.label or 0 for image in batch]) for batch, _ in chunk]
            if self._together:  # one copy for all networks
                pixels = [devices.to_device(each, self._device) for each in pixels]
            predicted = self.each(
                lambda arch, model, chunk=chunk, pixels=pixels, labels=labels: [
                    self._predicted(arch, model, batch, *each)
                    for (batch, _), *each in zip(chunk, pixels, labels, strict=True)
                ]
            )
            for number, (batch, natural) in enumerate(chunk):
                # One read for all networks, since each waits for the device.
                read = torch.stack([each[number] for each in predicted.values()]).tolist()
                answers = {
                    arch: [
                        Answer(int(index), None if image.label is None else probability)
                        for index, probability, image in zip(*own, batch, strict=True)
                    ]
                    for arch, own in zip(predicted, read, strict=True)
                }
                for arch, own in answers.items():
                    refuse_no_answer(arch, [answer.index for answer in own])
                yield batch, natural, answers

    def each(self, function: Callable[[str, Classifier], PerTarget]) -> dict[str, PerTarget]:
        """Return by name what a function of a name and its network, on the device, returns."""
        try:
            return {arch: self._on_device(arch, function) for arch in self.networks}
        except (RuntimeError, MemoryError) as error:
            if not self._together or len(self.networks) == 1 or not devices.out_of_memory(error):
                raise
        logger.warning("the networks don't fit into memory together: they take turns")
        self._together = False
        self._there.clear()
        self._parts = devices.Parts()
        for model in self.networks.values():
            model.to("cpu")
        return {arch: self._on_device(arch, function) for arch in self.networks}

    def logits(self, model: nn.Module, names: Sequence[str], pixels: Tensor) -> Tensor:
        """Return a network's logits, N x classes, of floats; random defences draw by the names."""
        draw_from(model, random_numbers.image_generators(self._seed, names))
        return predict_logits(model, pixels)

    def _on_device(self, arch: str, function: Callable[[str, Classifier], PerTarget]) -> PerTarget:
        model = self.networks[arch]
        if arch not in self._there:
            model.to(self._device)
            self._there.add(arch)
        value = function(arch, model)
        if not self._together:
            model.to("cpu")
            self._there.remove(arch)
        return value

    def _predicted(
        self,
        arch: str,
        model: Classifier,
        batch: list[LabelledImage],
        pixels: Tensor,
        labels: Tensor,
    ) -> Tensor:
        """Return a network's classes and the labels' probabilities, 2 x N, of uint8 pixels.

        They may be on the CPU or the device.
        """
        names = [image.name for image in batch]

        def floats(part: slice) -> Tensor:
            return to_float(pixels[part].to(self._device))

        def predict(part: slice) -> Tensor:
            logits = self.logits(model, names[part], floats(part))
            places = labels[part, None].to(logits.device)
            probabilities = logits.softmax(1).gather(1, places)[:, 0]
            return torch.stack([predicted_classes(logits).double(), probabilities.double()])

        answer = torch.cat(self._parts(predict, len(pixels)), 1)
        if arch in self._unchecked and self._parts.most != 1:
            self._unchecked.remove(arch)
            if depends_on_batch(undefended(model), floats(slice(0, 2))):
                warn_of_batch_dependence(arch)
        return answer if self._together else answer.cpu()
