"""Checks of labels, targets and image files."""

import contextlib
import logging
from collections.abc import Iterable
from pathlib import Path

import PIL.Image

from suite.images.labels import LABELS, LabelledImage, printable
from suite.images.metadata import is_lossless_webp
from suite.images.pictures import read_content, read_image, size_error

LOSSLESS = ("PNG", "BMP", "DIB", "TIFF", "PPM", "TGA", "QOI")
LOSSY_IN_TIFF = ("jpeg", "tiff_jpeg", "webp")

logger = logging.getLogger(__name__)


def refuse_own_targets(listed: Iterable[LabelledImage]) -> None:
    """Raise a ValueError if a target class is the label: a correct answer would be a success."""
    for image in listed:
        if image.target is not None and image.target == image.label:
            raise ValueError(f"{image.path}: its target class {image.target} is its label")


def refuse_unlabelled(folder: Path, listed: list[LabelledImage], targeted: bool) -> None:
    """Raise a ValueError if an image lacks its label or, for a targeted attack, its target."""
    if any(image.label is None for image in listed):
        other = "evaluate.py also takes those of --nat-dir"
        raise ValueError(f"{folder} has no labels: it needs a {LABELS} ({other})")
    without = [printable(image.name) for image in listed if image.target is None]
    if targeted and without:
        raise ValueError(f"{folder} is targeted, but {without[0]} has no target in its {LABELS}")


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


def warn_of_other_files(folder: Path, listed: list[LabelledImage], size: list[int] | None) -> None:
    """Warn if images were saved with losses, or have another size (width, height) now."""
    lossy, resized = [], []
    for path in (image.path for image in listed if image.path.is_file()):  # a pipe would hang
        with contextlib.suppress(Exception), PIL.Image.open(path) as picture:  # it is read later on
            if kind := _lossy_kind(path, picture):
                lossy.append((path, kind))
            if size and list(picture.size) != size:
                resized.append((path, picture.size))
    counts = f"of {len(listed)} images in {printable(folder)}"
    if lossy:
        first, kind = printable(lossy[0][0]), lossy[0][1]
        washed = "it washes perturbations out"
        logger.warning("%d %s are lossy: %s is a %s: %s", len(lossy), counts, first, kind, washed)
    if resized:
        first, now = printable(resized[0][0]), resized[0][1]
        written = f"has the size {now}, but was written as {size}"
        logger.warning("%d %s have another size: %s %s", len(resized), counts, first, written)


def _lossy_kind(path: Path, picture: PIL.Image.Image) -> str | None:
    """Return how an image file is compressed if that loses something, by its content."""
    kind = picture.format
    if picture.mode == "P":
        return f"{kind} with a palette"
    if kind == "TIFF" and picture.info.get("compression") in LOSSY_IN_TIFF:
        return "TIFF with lossy compression"
    lossless = kind in LOSSLESS or (kind == "WEBP" and is_lossless_webp(read_content(path)))
    return None if lossless else kind
