"""Cheap warnings where a measurement would mislead."""

import contextlib
import logging
from pathlib import Path

import PIL.Image
import torch
from torch import Tensor

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
