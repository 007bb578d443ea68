"""Cheap warnings and refusals where a measurement would mislead."""

import contextlib
import logging
from pathlib import Path

import PIL.Image
import torch
from torch import Tensor

from suite.images import LABELS, LabelledImage

logger = logging.getLogger(__name__)


def warn_of_probabilities(arch: str, logits: Tensor) -> None:
    """Warn if a network, N x 3 x H x W to N x classes, seems to return probabilities."""
    one = torch.ones(len(logits), device=logits.device)
    if (logits >= 0).all() and torch.allclose(logits.sum(1), one, atol=1e-3):
        logger.warning(
            "%s seems to return probabilities, not logits: their gradients vanish where the "
            "network is sure, and attacks on it look weaker than they are",
            arch,
        )


def warn_of_accuracy(arch: str, records: list[dict]) -> None:
    """Warn if a network's `answer` is hardly ever the `label` of natural images."""
    right = sum(record["answer"] == record["label"] for record in records)
    if right >= 0.4 * len(records):
        return
    hint = "wrong labels, or preprocessing that is not the network's?"
    if sum(record["answer"] == record["label"] - 1 for record in records) >= 0.4 * len(records):
        hint = "do the labels count from 1? They must count from 0"
    logger.warning("%s is right on %d of %d natural images: %s", arch, right, len(records), hint)


def warn_of_other_files(file: Path, size: list[int] | None) -> None:
    """Warn if an adversarial image is no PNG, or not of the width and height that was written."""
    with contextlib.suppress(OSError), PIL.Image.open(file) as image:
        if image.format != "PNG":
            logger.warning("%s is a %s: it washes perturbations out", file, image.format)
        if size and list(image.size) != size:
            logger.warning("%s has the size %s, but was written as %s", file, image.size, size)


def refuse_not_finite(pixels: Tensor, names: list[str]) -> None:
    """Raise a ValueError that names the images, N x 3 x H x W, with pixels that are not finite."""
    broken = (~pixels.isfinite()).flatten(1).any(1).tolist()
    if any(broken):
        named = ", ".join(name for name, b in zip(names, broken, strict=True) if b)
        raise ValueError(f"the gradient is not finite at {sum(broken)} images: {named}")


def warn_of_unchanged(names: list[str]) -> None:
    """Warn of images that an attack did not change."""
    if names:
        logger.warning(
            "the gradient is zero at %d images, which stay as they are: %s%s",
            len(names),
            ", ".join(names[:10]),
            ", ..." if len(names) > 10 else "",
        )


def warn_of_absent_labels(labels: int, targets: int, seed: int) -> None:
    """Warn of numbers of images that had no label, or no target class in a targeted attack."""
    if labels:
        logger.warning("%d images have no label: took what the source predicts", labels)
    if targets:
        logger.warning("%d images have no target class: drew one with seed %d", targets, seed)


def refuse_unfinished(folder: Path, run: dict) -> None:
    """Raise a ValueError if the run that wrote a folder, of which `run` is run.json, goes on."""
    if run.get("status") == "running":
        raise ValueError(f"the run in {folder} is not finished: give its command again")


def refuse_unlabelled(folder: Path, listed: list[LabelledImage], targeted: bool) -> None:
    """Raise a ValueError if an image lacks its label or, of a targeted attack, its target class."""
    for image in listed:
        if image.label is None or (targeted and image.target is None):
            raise ValueError(f"{folder} has no labels: it needs a {LABELS}")


def refuse_unpaired(
    folder: Path, listed: list[LabelledImage], natural: Path, naturals: dict[str, LabelledImage]
) -> None:
    """Raise a ValueError if an image has no natural one of its name, where those are wanted."""
    for image in listed if naturals else ():
        if image.name not in naturals:
            raise ValueError(f"{natural} has no {image.name}, but {folder} has")


def warn_of_white_box(folder: Path, run: dict, networks: dict) -> None:
    """Warn of targets, by name, that are a network that a folder's images were crafted on."""
    known = set(run.get("weights", {}).values())
    crafted_on = run.get("options", {}).get("arch") or []
    # The same architecture with other weights is a target like others.
    same = [
        arch
        for arch, model in networks.items()
        if arch in crafted_on and known >= set(model.digests.values())
    ]
    if same:
        logger.warning("%s was crafted on %s: white-box, no transfer", folder, ", ".join(same))


def refuse_over_epsilon(folder: Path, largest: int, epsilon: float | None) -> None:
    """Raise a ValueError if a pixel is further from the natural one than run.json's epsilon."""
    if epsilon is not None and largest > epsilon:
        raise ValueError(
            f"{folder}: a pixel is {largest}/255 from the natural one, and run.json says epsilon "
            f"{epsilon:g}/255"
        )
