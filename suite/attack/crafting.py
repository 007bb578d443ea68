"""The attack on a folder of images, batch by batch: labels, adversarial images, records."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from suite.attack.loop import Batch, GradientAttack
from suite.attack.settings import Attack
from suite.attack.sources import Sources
from suite.defences.defended import undefended
from suite.images.labels import LabelledImage
from suite.images.pictures import Writer, read_image, size_error, to_float, to_pixels, to_uint8
from suite.networks.answer_checks import refuse_no_answer, warn_of_answers
from suite.networks.classifier import predicted_classes
from suite.running import devices, runs
from suite.running.random_numbers import image_generators, seed_globals
from suite.user_code.process_settings import printing_aside

logger = logging.getLogger(__name__)


@dataclass
class Share:
    """What one rank did, or all of them.

    Attributes:
        records: of each image, a dict: `image`; `label`; `target`, the class by which success is
            measured; `answer`, what the source answers to the natural image, None in a resumed
            batch; `fooled`, what it answers to the adversarial image; `change`, the largest change
            of a pixel, in 1/255; `moved`, whether there was any before rounding, None if not known.
        first: path of the first image, and the width and height that all must have.
        crafted, seconds: how many images were attacked in this run, and in how long.
        elapsed: the same with reading, and waiting for others.
        skipped: names of unreadable images.
    """

    records: list[dict] = field(default_factory=list)
    first: tuple[Path, tuple[int, int]] | None = None
    crafted: int = 0
    seconds: float = 0
    elapsed: float = 0
    skipped: list[str] = field(default_factory=list)

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
        skipped=sorted(name for share in shares for name in share.skipped),
    )
    for share in shares:
        whole.records += share.records
        if share.first:
            whole.refuse_other_size(*share.first)
    whole.records.sort(key=lambda record: record["image"].path)
    return whole


@dataclass(frozen=True)
class Attacked:
    """A batch of images that is being attacked, or was.

    Attributes:
        found: what comes out, see `Crafter._attacked`.
        afresh: whether an attack makes them; False if they are there already.
    """

    listed: list[LabelledImage]
    found: devices.Launched
    afresh: bool


class Crafter:
    """Attacks batches of images, saves what comes out, and keeps records of it.

    Args:
        sources: of `defended.load_defended`, accelerated, on the device.
        loop: the attack on them.
        folder: where adversarial images are, or will be.
        begin: called before an image is attacked, see `runs.output_folder`.

    Attributes:
        share: what was done so far.
    """

    def __init__(
        self,
        sources: Sources,
        loop: GradientAttack,
        folder: Path,
        device: str,
        begin: Callable[[], None] = lambda: None,
    ):
        self.sources, self.loop = sources, loop
        self.folder, self.begin = folder, begin
        self.device = device
        self.share = Share()
        self._parts = devices.Parts()
        self._begin: float | None = None

    def launch(
        self,
        listed: list[LabelledImage],
        natural: Tensor,
        perturb: Callable[[Batch], Tensor],
    ) -> Attacked:
        """Attack a batch of images, unless it is there, without waiting for a GPU.

        Args:
            natural: uint8, N x 3 x H x W.
            perturb: the attack; called with a batch of the device's memory at most.
        """
        self.share.refuse_other_size(listed[0].path, (natural.shape[3], natural.shape[2]))
        finished = _finished(self.folder, listed, natural, self.loop.attack.epsilon)
        there = None if finished is None else devices.to_device(finished, self.device)
        pixels = devices.to_device(natural, self.device)
        if self._begin is None:
            self._begin = time.perf_counter()
            for source in self.sources.sources:
                network = undefended(source.network)
                warn_of_answers(source.name, network, to_float(pixels[:2]))
        if finished is None:
            self.begin()
        ask = any(image.label is None for image in listed)

        def attacked(part: slice) -> dict[str, Tensor]:
            done = None if there is None else there[part]
            return self._attacked(listed[part], pixels[part], perturb, done, ask)

        def compute() -> dict[str, Tensor]:
            parts = self._parts(attacked, len(listed))
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

        return Attacked(listed, devices.Launched(self.device, compute), finished is None)

    def collect(self, batch: Attacked, writer: Writer) -> None:
        """Save the images of a batch that was launched, and add its records to the share.

        Raises:
            ValueError: logits or gradients are not finite, or the user's attack goes too far.
        """
        found = batch.found.wait()
        adversarial = found.pop("adversarial")
        columns = {name: values.tolist() for name, values in found.items()}
        names = [image.name for image in batch.listed]
        refuse_no_answer(self.sources.name, columns.get("answer", []))
        if self.loop.attack.user and batch.afresh:
            attack, distances = self.loop.attack, (columns.pop("apart"), columns.pop("outside"))
            refuse_too_far(attack.name, *distances, attack.epsilon, names)
        elif batch.afresh:
            refuse_not_finite(columns.pop("broken"), names)
        refuse_no_answer(self.sources.name, columns["fooled"])
        if batch.afresh:
            for image, png in zip(batch.listed, adversarial, strict=True):
                writer.write(png, self.folder / image.name)
            self.share.crafted += len(batch.listed)
            self.share.seconds += batch.found.seconds
            self.share.elapsed = time.perf_counter() - self._begin
        for image, *row in zip(batch.listed, *columns.values(), strict=True):
            record = {"image": image, "answer": None, "moved": None}
            self.share.records.append(record | dict(zip(columns, row, strict=True)))

    def _attacked(
        self,
        listed: list[LabelledImage],
        natural: Tensor,
        perturb: Callable[[Batch], Tensor],
        finished: Tensor | None,
        ask: bool,
    ) -> dict[str, Tensor]:
        """Return the columns of the records, and the adversarial pixels, uint8 N x 3 x H x W.

        Beside those, for the checks of `collect`: `broken`, or how far a user's attack went.

        Args:
            ask: whether the sources' answers stand for labels that are missing.
        """
        attack, floats = self.loop.attack, to_float(natural)
        names = [image.name for image in listed]
        generators = image_generators(attack.seed, names)
        columns = {"label": self._given([image.label for image in listed])}
        if ask:
            columns["answer"] = self._answers(floats, names)
            columns["label"] = torch.where(
                columns["label"] < 0, columns["answer"], columns["label"]
            )
        columns["target"] = columns["label"]
        if attack.targeted:
            given = self._given([image.target for image in listed])
            classes = self.sources.networks[0].classes
            drawn = random_targets(columns["label"], generators, classes)
            columns["target"] = torch.where(given < 0, drawn, given)
        adversarial = finished
        if finished is None:
            # Where there is no answer, `collect` says so; an index of -1 would end the process.
            aims, classes = (columns[name].clamp(min=0) for name in ("target", "label"))
            batch = self.loop.batch(floats, aims, generators, classes)
            seed_globals(attack.seed, names)
            with printing_aside():  # a backward pass may print, too
                result = perturb(batch)
            if batch.logits is None:
                batch.logits = self.sources.logits(floats, names)
            columns["answer"] = predicted_classes(batch.logits)
            if attack.user:
                columns["apart"] = 255 * (result - floats).abs().flatten(1).amax(1)
                outside = torch.maximum(-result, result - 1)
                columns["outside"] = 255 * outside.flatten(1).amax(1)
            else:
                columns["broken"] = (~result.isfinite()).flatten(1).any(1)
                columns["moved"] = (result != floats).flatten(1).any(1)
            adversarial = to_uint8(result, natural, attack.epsilon)
        columns["fooled"] = self._answers(to_float(adversarial), names)
        change = (adversarial.int() - natural.int()).abs().flatten(1).amax(1)
        return columns | {"change": change, "adversarial": adversarial}

    def _given(self, classes: Sequence[int | None]) -> Tensor:
        """Return classes on the device; -1 stands for None."""
        known = torch.tensor([-1 if index is None else index for index in classes])
        return devices.to_device(known, self.device)

    def _answers(self, pixels: Tensor, names: list[str]) -> Tensor:
        return predicted_classes(self.sources.logits(pixels, names))


def random_targets(
    labels: Tensor, generators: Sequence[torch.Generator], classes: int = 1000
) -> Tensor:
    """Return for each of N labels a class drawn uniformly from the others."""
    draws = [torch.randint(1, classes, (), generator=generator) for generator in generators]
    return (labels + devices.to_device(torch.stack(draws), labels.device)) % classes


def _finished(
    folder: Path, listed: list[LabelledImage], natural: Tensor, epsilon: float
) -> Tensor | None:
    """Return the adversarial images of a batch, uint8 like `natural`, if none of them is missing.

    One that is damaged, or further than epsilon, in 1/255, from its natural image, is missing too.
    A batch is done as a whole or again as a whole, since rounding depends on which images are
    attacked together: thus a resumed run gives the bytes of an undisturbed one.
    """
    done = []
    for image in listed:
        try:
            done.append(to_pixels(read_image(folder / image.name)))
        except ValueError:
            return None
        if done[-1].shape != natural.shape[1:]:
            return None
    finished = torch.stack(done)
    return finished if (finished.int() - natural.int()).abs().max() <= epsilon else None


def crafted_row(record: dict, targeted: bool) -> dict:
    """Return a record's row of labels.csv."""
    row = {"filename": record["image"].name, "label": record["label"]}
    return row | {"target": record["target"]} if targeted else row


def run_summary(sources: Sources, attack: Attack, share: Share) -> dict:
    """Return what run.json says of a finished run."""
    records = share.records
    steps = {key: getattr(attack, key) for key in ("step_size", "num_steps")}
    if attack.user:
        steps = {key: value if key in attack.user.asks else None for key, value in steps.items()}
    hits = sum((r["fooled"] == r["target"]) == attack.targeted for r in records)
    return {
        "source": sources.name,
        "attack": attack.name,
        "gamma": sources.gamma,
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
        "size": list(share.first[1]),
        "skipped": share.skipped,
    }


def refuse_not_finite(broken: list[bool], names: list[str]) -> None:
    """Raise a ValueError that names the images that are broken: their pixels are not finite."""
    if any(broken):
        named = ", ".join(name for name, b in zip(names, broken, strict=True) if b)
        raise ValueError(f"the gradient is not finite at {sum(broken)} images: {named}")


def refuse_too_far(
    attack: str, apart: list[float], outside: list[float], epsilon: float, names: list[str]
) -> None:
    """Raise a ValueError that names the image that an attack took out of bounds.

    A hundredth of a level further is rounding.

    Args:
        apart: of each image, how far its pixels are from the natural ones, in 1/255.
        outside: how far they are out of [0, 1], in 1/255.
        epsilon: in 1/255.
    """
    for name, distance, beyond in zip(names, apart, outside, strict=True):
        if not distance <= epsilon + 0.01:  # nor where it is not a number
            raise ValueError(
                f"{attack} takes {name} {distance:.2f}/255 away, and epsilon is {epsilon:g}/255"
            )
        if beyond > 0.01:
            raise ValueError(f"{attack} takes pixels of {name} {beyond:.2f}/255 out of [0, 1]")


def warn_of_unchanged(records: list[dict]) -> None:
    """Warn of images that an attack did not change."""
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
