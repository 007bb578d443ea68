"""The attack on a folder of images, batch by batch: labels, adversarial images, records."""

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from suite.attack.attacker import Attacker
from suite.attack.attacks import random_targets
from suite.defences.defended import undefended
from suite.images.labels import LabelledImage
from suite.images.pictures import Writer, read_image, size_error, to_float, to_pixels, to_uint8
from suite.networks.answer_checks import (
    refuse_no_answer,
    warn_of_batch_dependence,
    warn_of_probabilities,
)
from suite.networks.classifier import depends_on_batch, predicted_classes
from suite.running import devices, runs
from suite.running.random_numbers import image_generators

logger = logging.getLogger(__name__)


@dataclass
class Share:
    """What one rank did, or all of them.

    Attributes:
        records: of each image, a dict: `image`; `label`; `target`, the class by which success is
            measured; `answer`, what the source answers where the attack starts, None in a resumed
            batch; `fooled`, what it answers to the adversarial pixels; `change`, the largest change
            of a pixel, in 1/255; `moved`, whether there was any before rounding, None if not known.
        skipped: names of unreadable images.
        first: path of the first image, and the width and height that all must have.
        crafted, seconds: how many images were attacked in this run, and in how long.
        elapsed: the same with reading, and waiting for others.
    """

    records: list[dict] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    first: tuple[Path, tuple[int, int]] | None = None
    crafted: int = 0
    seconds: float = 0
    elapsed: float = 0

    @property
    def speeds(self) -> tuple[float, float] | None:
        """Images per second, of the attack alone and with reading; None if none was attacked."""
        if not self.crafted:
            return None
        return self.crafted / self.seconds, self.crafted / self.elapsed

    def refuse_other_size(self, path: Path, size: tuple[int, int]) -> None:
        """Raise a ValueError if an image has not the width and height of the first one."""
        self.first = self.first or (path, size)
        if size != self.first[1]:
            raise ValueError(size_error((path, size), self.first))


def merged_shares(shares: list[Share]) -> Share:
    """Return the shares of all ranks as one, which does not depend on how many there were."""
    whole = Share(
        crafted=sum(s.crafted for s in shares),
        seconds=max(s.seconds for s in shares),
        elapsed=max(s.elapsed for s in shares),
    )
    for share in shares:
        whole.records += share.records
        whole.skipped += share.skipped
        if share.first:
            whole.refuse_other_size(*share.first)
    whole.records.sort(key=lambda record: (record["image"].path, record["image"].index))
    whole.skipped.sort()
    return whole


class Crafter:
    """Attacks batches of images, and saves what comes out.

    Args:
        attacker: its sources are networks of `networks.load_model`, accelerated, on the device.
        folder: where adversarial images are, or will be.

    Attributes:
        share: what was done so far.
    """

    def __init__(self, attacker: Attacker, folder: Path, device: str):
        self.attacker = attacker
        self.folder = folder
        self.device = device
        self.share = Share()
        self._classes = attacker.sources[0].network.classes
        self._parts = devices.Parts()
        self._begin: float | None = None

    def find_batch_size(self) -> int:
        """Return a batch size that fits the device, for images as large as the first source's."""
        size = self.attacker.sources[0].network.input_size

        def attempt(part: slice) -> None:
            zeros = torch.zeros(part.stop - part.start, *size, device=self.device)
            self.attacker.rehearse(zeros)

        return devices.find_batch_size(self.device, self._parts, attempt)

    def craft(self, batches: Iterable[tuple[list[LabelledImage], Tensor]], writer: Writer) -> None:
        """Attack and save batches of images, unless they are there; add their records to the share.

        Args:
            batches: images and their pixels, uint8, N x 3 x H x W, as `images.read_batches` does.
        """
        for batch, natural in devices.ahead(batches, self.device):
            if batch:
                self._craft(batch, natural, writer)

    def _craft(self, batch: list[LabelledImage], natural: Tensor, writer: Writer) -> None:
        start = time.perf_counter()
        self._begin = self._begin or start
        self.share.refuse_other_size(batch[0].path, (natural.shape[3], natural.shape[2]))
        if not self.share.records:
            self._warn_of_batch_dependence(to_float(natural[:2]))
        finished = _finished(self.folder, batch, natural)

        def attacked(part: slice) -> dict:
            there = None if finished is None else finished[part]
            return self._attacked(batch[part], natural[part], there)

        parts = self._parts(attacked, len(batch))
        keys = ("label", "target", "answer", "fooled", "change", "moved")
        columns = [[x for part in parts for x in part[key]] for key in keys]
        adversarial = torch.cat([part["adversarial"] for part in parts])
        if finished is None:
            for image, png in zip(batch, adversarial, strict=True):
                writer.write(png, self.folder / image.name)
            self.share.crafted += len(batch)
            self.share.seconds += time.perf_counter() - start
            self.share.elapsed = time.perf_counter() - self._begin
        self.share.records += [
            {"image": image} | dict(zip(keys, values, strict=True))
            for image, *values in zip(batch, *columns, strict=True)
        ]

    def _attacked(
        self, batch: list[LabelledImage], natural: Tensor, finished: Tensor | None
    ) -> dict:
        """Return the columns of the batch's records, and its adversarial pixels on the CPU."""
        attack, floats = self.attacker.attack, to_float(natural)
        names = [image.name for image in batch]
        generators = image_generators(attack.seed, names)
        labels = [-1 if image.label is None else image.label for image in batch]
        answers = [None] * len(batch)
        # Elsewhere the attack's first step answers, without a pass of its own.
        by_itself = attack.rand_init or attack.di_prob > 0 or attack.targeted
        by_itself = by_itself or any(source.random for source in self.attacker.sources)
        if -1 in labels and (by_itself or finished is not None):
            answers = self._predicted(floats, names)
            refuse_no_answer(self.attacker.name, answers)
            labels = _filled(labels, answers)
        targets = labels
        if attack.targeted:
            draws = random_targets(labels, generators, self._classes)
            targets = [
                draw if image.target is None else image.target
                for image, draw in zip(batch, draws, strict=True)
            ]
        adversarial, moved = finished, [None] * len(batch)
        if finished is None:
            aims = torch.tensor(targets, device=self.device)
            classes = torch.tensor(labels, device=self.device) if attack.targeted else None
            result = self.attacker(floats, aims, generators, classes)
            answers = self._first_answers()
            if attack.user:
                refuse_too_far(attack.name, result, floats, attack.epsilon, names)
            else:
                refuse_not_finite(result, names)
                moved = (result != floats).flatten(1).any(1).tolist()
            labels = _filled(labels, answers)
            adversarial = to_uint8(result, natural, attack.epsilon)
        adversarial = adversarial.to(self.device)
        fooled = self._predicted(to_float(adversarial), names)
        refuse_no_answer(self.attacker.name, fooled)
        changes = (adversarial.int() - natural.int()).abs().flatten(1).amax(1)
        return {
            "label": labels,
            "target": targets if attack.targeted else labels,
            "answer": answers,
            "fooled": fooled,
            "change": changes.tolist(),
            "moved": moved,
            "adversarial": adversarial.cpu(),
        }

    def _predicted(self, pixels: Tensor, names: list[str]) -> list[int]:
        # New generators, since those of the attack are not there in a resumed run.
        generators = image_generators(self.attacker.attack.seed, names)
        return self.attacker.predict(pixels, generators).tolist()

    def _warn_of_batch_dependence(self, pixels: Tensor) -> None:
        for source in self.attacker.sources:
            if depends_on_batch(undefended(source.network), pixels):
                warn_of_batch_dependence(source.name)

    def _first_answers(self) -> list[int]:
        answers = predicted_classes(self.attacker.logits).tolist()
        refuse_no_answer(self.attacker.name, answers)
        if not self.share.crafted:
            names = " + ".join(source.name for source in self.attacker.sources)
            warn_of_probabilities(names, self.attacker.logits)
        return answers


def _finished(folder: Path, batch: list[LabelledImage], natural: Tensor) -> Tensor | None:
    """Return the adversarial images of a batch, uint8 like `natural`, if all are there and whole.

    A batch is done as a whole or again as a whole, since rounding depends on which images are
    attacked together: thus a resumed run gives the bytes of an undisturbed one.
    """
    done = []
    for image in batch:
        try:
            done.append(to_pixels(read_image(folder / image.name)))
        except ValueError:
            return None
        if done[-1].shape != natural.shape[1:]:
            return None
    return torch.stack(done)


def _filled(labels: list[int], answers: list[int]) -> list[int]:
    return [a if label < 0 else label for label, a in zip(labels, answers, strict=True)]


def crafted_row(record: dict, targeted: bool) -> dict:
    """Return a record's row of labels.csv."""
    row = {"filename": record["image"].name, "label": record["label"]}
    return row | {"target": record["target"]} if targeted else row


def run_summary(attacker: Attacker, records: list[dict]) -> dict:
    """Return what run.json says of a finished run, of which there are records as of `Share`."""
    attack = attacker.attack
    steps = {key: getattr(attack, key) for key in ("step_size", "num_steps")}
    if attack.user:
        steps = {key: value if key in attack.user.asks else None for key, value in steps.items()}
    hits = sum((r["fooled"] == r["target"]) == attack.targeted for r in records)
    return {
        "source": attacker.name,
        "attack": attack.name,
        "gamma": attacker.gamma,
        "epsilon": attack.epsilon,
        **steps,
        "seed": attack.seed,
        "targeted": attack.targeted,
        "versions": runs.versions(),
        "images": len(records),
        "labels_predicted": sum(r["image"].label is None for r in records),
        "targets_drawn": attack.targeted * sum(r["image"].target is None for r in records),
        "unchanged": [r["image"].name for r in records if r["change"] == 0],
        "white_box_success": 100 * hits / len(records),
        "largest_perturbation": max(r["change"] for r in records),
    }


def refuse_not_finite(pixels: Tensor, names: list[str]) -> None:
    """Raise a ValueError that names the images, N x 3 x H x W, with pixels that are not finite."""
    broken = (~pixels.isfinite()).flatten(1).any(1).tolist()
    if any(broken):
        named = ", ".join(name for name, b in zip(names, broken, strict=True) if b)
        raise ValueError(f"the gradient is not finite at {sum(broken)} images: {named}")


def refuse_too_far(
    attack: str, pixels: Tensor, natural: Tensor, epsilon: float, names: list[str]
) -> None:
    """Raise a ValueError that names the image, N x 3 x H x W, that an attack took out of bounds.

    Args:
        epsilon: in 1/255; a hundredth of a level further is rounding.
    """
    apart = 255 * (pixels - natural).abs().flatten(1).amax(1)
    outside = 255 * torch.maximum(-pixels, pixels - 1).flatten(1).amax(1)
    for name, distance, beyond in zip(names, apart.tolist(), outside.tolist(), strict=True):
        if not distance <= epsilon + 0.01:  # nor where it is not a number
            raise ValueError(
                f"{attack} takes {name} {distance:.2f}/255 away, and epsilon is {epsilon:g}/255"
            )
        if beyond > 0.01:
            raise ValueError(f"{attack} takes pixels of {name} {beyond:.2f}/255 out of [0, 1]")


def warn_of_unchanged(records: list[dict]) -> None:
    """Warn of images that an attack did not change; `records` as of `attack.Crafter`."""
    for moved, why in (
        (None, "nothing was changed at"),
        (False, "the gradient is zero at"),
        (True, "the perturbation is under half a level, 0.5/255, at"),
    ):
        names = [r["image"].name for r in records if r["change"] == 0 and r["moved"] is moved]
        if names:
            shown = ", ".join(names[:10]) + ", ..." * (len(names) > 10)
            logger.warning("%s %d images, which stay as they are: %s", why, len(names), shown)


def warn_of_absent_labels(labels: int, targets: int, seed: int) -> None:
    """Warn of numbers of images that had no label, or no target class in a targeted attack."""
    if labels:
        logger.warning("%d images have no label: took what the source predicts", labels)
    if targets:
        logger.warning("%d images have no target class: drew one with seed %d", targets, seed)
