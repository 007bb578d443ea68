"""Checks of labels, targets and image files."""

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path

import PIL.Image

from suite.images.labels import LABELS, LabelledImage
from suite.images.pictures import read_image, size_error

logger = logging.getLogger(__name__)


def refuse_own_targets(listed: Iterable[LabelledImage]) -> None:
    """Raise a ValueError if a target class is the label: a correct answer would be a success."""
    for image in listed:
        if image.target is not None and image.target == image.label:
            raise ValueError(f"{image.path}: its target class {image.target} is its label")


def refuse_unlabelled(folder: Path, listed: list[LabelledImage], targeted: bool) -> None:
    """Raise a ValueError if an image lacks its label or, for a targeted attack, its target."""
    if any(image.label is None or (targeted and image.target is None) for image in listed):
        other = "evaluate.py also takes those of --nat-dir"
        raise ValueError(f"{folder} has no labels: it needs a {LABELS} ({other})")


def refuse_unpaired(
    folder: Path, listed: list[LabelledImage], natural: Path, naturals: dict[str, LabelledImage]
) -> None:
    """Raise a ValueError if images and natural images of their names do not fit together.

    All labels are compared, and the sizes of the first pair. Without natural images, anything fits.
    """
    if not naturals:
        return
    for image in listed:
        if image.name not in naturals:
            raise ValueError(f"{natural} has no {image.name}, but {folder} has")
        label = naturals[image.name].label
        if label is not None and label != image.label:
            raise ValueError(
                f"{image.name} has the label {label} in {natural}, but {image.label} in {folder}: "
                "does one of them count from 1, or stand in another order?"
            )
    one, other = ((i.path, read_image(i.path).size) for i in (listed[0], naturals[listed[0].name]))
    if one[1] != other[1]:
        raise ValueError(size_error(one, other))


def warn_of_other_files(file: Path, size: list[int] | None) -> None:
    """Warn if an adversarial image is not a PNG, or has another size (width, height) now."""
    with contextlib.suppress(OSError), PIL.Image.open(file) as image:
        if image.format != "PNG":
            logger.warning("%s is a %s: it washes perturbations out", file, image.format)
        if size and list(image.size) != size:
            logger.warning("%s has the size %s, but was written as %s", file, image.size, size)
