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
from suite.networks.answer_checks import warn_of_answers
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

    def craft(
        self,
        listed: list[LabelledImage],
        natural: Tensor,
        perturb: Callable[[Batch], Tensor],
        writer: Writer,
    ) -> None:
        """Attack and save a batch of images, unless it is there; add its records to the share.

        Args:
            natural: uint8, N x 3 x H x W, on the device.
            perturb: the attack; called with a batch of the device's memory at most.
        """
        start = time.perf_counter()
        self._begin = self._begin or start
        self.share.refuse_other_size(listed[0].path, (natural.shape[3], natural.shape[2]))
        if not self.share.records:
            for source in self.sources.sources:
                network = undefended(source.network)
                warn_of_answers(source.name, network, to_float(natural[:2]))
        finished = _finished(self.folder, listed, natural, self.loop.attack.epsilon)
        if finished is None:
            self.begin()

        def attacked(part: slice) -> dict:
            there = None if finished is None else finished[part]
            return self._attacked(listed[part], natural[part], perturb, there)

        parts = self._parts(attacked, len(listed))
        adversarial = torch.cat([part.pop("adversarial") for part in parts])
        if finished is None:
            for image, png in zip(listed, adversarial, strict=True):
                writer.write(png, self.folder / image.name)
            self.share.crafted += len(listed)
            self.share.seconds += time.perf_counter() - start
            self.share.elapsed = time.perf_counter() - self._begin
        for part in parts:
            rows = zip(*part.values(), strict=True)
            self.share.records += [dict(zip(part, row, strict=True)) for row in rows]

    def _attacked(
        self,
        listed: list[LabelledImage],
        natural: Tensor,
        perturb: Callable[[Batch], Tensor],
        finished: Tensor | None,
    ) -> dict:
        """Return the columns of the records, and the adversarial pixels on the CPU."""
        attack, floats = self.loop.attack, to_float(natural)
        names = [image.name for image in listed]
        generators = image_generators(attack.seed, names)
        labels, answers = [image.label for image in listed], [None] * len(listed)
        if None in labels:
            answers = self._answers(floats, names)
            pairs = zip(labels, answers, strict=True)
            labels = [answer if label is None else label for label, answer in pairs]
        targets = labels
        if attack.targeted:
            classes = self.sources.networks[0].classes
            drawn = random_targets(labels, generators, classes)
            targets = [
                draw if image.target is None else image.target
                for image, draw in zip(listed, drawn, strict=True)
            ]
        adversarial, moved = finished, [None] * len(listed)
        if finished is None:
            aims, classes = (torch.tensor(each, device=self.device) for each in (targets, labels))
            batch = self.loop.batch(floats, aims, generators, classes)
            seed_globals(attack.seed, names)
            with printing_aside():  # a backward pass may print, too
                result = perturb(batch)
            answers = self._natural_answers(batch, names)
            if attack.user:
                refuse_too_far(attack.name, result, floats, attack.epsilon, names)
            else:
                refuse_not_finite(result, names)
                moved = (result != floats).flatten(1).any(1).tolist()
            adversarial = to_uint8(result, natural, attack.epsilon)
        adversarial = adversarial.to(self.device)
        fooled = self._answers(to_float(adversarial), names)
        changes = (adversarial.int() - natural.int()).abs().flatten(1).amax(1)
        return {
            "image": listed,
            "label": labels,
            "target": targets,
            "answer": answers,
            "fooled": fooled,
            "change": changes.tolist(),
            "moved": moved,
            "adversarial": adversarial.cpu(),
        }

    def _answers(self, pixels: Tensor, names: list[str]) -> list[int]:
        return self.sources.classes(self.sources.logits(pixels, names))

    def _natural_answers(self, batch: Batch, names: list[str]) -> list[int]:
        """Return what the sources answer to the natural images, which a pass may have told."""
        logits = batch.logits
        if logits is None:
            logits = self.sources.logits(batch.natural, names)
        return self.sources.classes(logits)


def random_targets(
    labels: Sequence[int], generators: Sequence[torch.Generator], classes: int = 1000
) -> list[int]:
    """Return for each image a class drawn uniformly from those that are not its label."""
    draws = [torch.randint(1, classes, (), generator=generator).item() for generator in generators]
    return [(label + draw) % classes for label, draw in zip(labels, draws, strict=True)]


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
    finished = torch.stack(done).to(natural.device)
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
