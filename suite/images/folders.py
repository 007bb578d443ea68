"""Folders of labelled images.

Labels are 0-based class indices. Layouts that `list_images` reads; `images/` is a folder of that
name, and either it or the one above it is given:

    labels.csv beside the images, or beside images/ as TransferAttack has it, with the columns
        filename, label and perhaps target or targeted_label
    the NIPS 2017 set: dev_dataset.csv, Kaggle's images.csv, or any CSV file with the columns
        ImageId and TrueLabel, beside the images or beside images/
    TA-Bench's: any CSV file with the columns class_index and image_name, beside the images or
        beside their folder, of whose images it selects some
    an ImageNet tree: n01440764/*.JPEG, or Tiny-ImageNet's n01443537/images/*.JPEG and, for its
        validation images, val_annotations.txt beside the images or beside images/
    flat files named n01440764_*.png
    flat files without labels
    folders named by class index: 0/*.png, 1/*.png
    torchvision's ImageFolder: cat/*.png, dog/*.png, whose sorted names are the classes

What else lies in a folder is left out, counted and logged. Names that begin with a dot are passed
over.
"""

import logging
import re
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

from suite.images.class_folders import SYNSET, UNFINISHED, class_folders, class_images, look_into
from suite.images.labels import (
    LABELS,
    NIPS,
    NIPS2017,
    SUFFIXES,
    SUITE_LABELS,
    LabelFile,
    LabelledImage,
    other_label_files,
    printable,
    synset_class,
)

EMBEDDED = Path(__file__).resolve().parents[2] / "data" / "nips2017" / "images"
OF_SYNSET = re.compile(rf"{SYNSET.pattern}(_|$)")

logger = logging.getLogger(__name__)


def list_images(folder: Path) -> list[LabelledImage]:
    """Return the images of a folder in the order of their names.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image in it, an unfinished folder, or labels that do not fit the images.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    if (folder / UNFINISHED).is_file():
        raise ValueError(
            f"{folder} is unfinished: the command that wrote it was interrupted; give it again, "
            "with --overwrite"
        )
    left = Counter()
    images = _listed(folder, left)
    left_out = ", ".join(f"{count} {what}" for what, count in (+left).items())
    if not images:
        hint = f"; it has {left_out}" if left_out else ""
        raise ValueError(f"no images in {folder} (looked for {', '.join(SUFFIXES)}{hint})")
    by_name = {}
    for image in images:
        try:
            image.name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{image.path!r}: a file name must be valid UTF-8") from None
        if image.name in by_name:
            raise ValueError(
                f"{printable(by_name[image.name])} and {printable(image.path)} would both become "
                f"{printable(image.name)}"
            )
        by_name[image.name] = image.path
    if left_out:
        harmless = (+left).keys() <= {"files that are not images"}
        level = logging.INFO if harmless else logging.WARNING
        logger.log(level, "left out of %s: %s", folder, left_out)
    return images


def matched(
    folder: Path, listed: list[LabelledImage], naturals: list[LabelledImage]
) -> list[LabelledImage]:
    """Return a folder's images; if none has a label, they get those of the natural images.

    Images are matched by name, and targets come with the labels.

    Args:
        naturals: in the order of their names; empty if there are none to ask.

    Raises:
        ValueError: there are more images, or fewer; names the first that is missing.
    """
    if not naturals or any(image.label is not None for image in listed):
        return listed
    known = {image.name: image for image in naturals}
    unmatched = known.keys() ^ {image.name for image in listed}
    if unmatched:
        first = min(unmatched)
        has = "has no" if first in known else "alone has"
        raise ValueError(
            f"{folder} has no labels, so that it needs the natural images' names, all of them: it "
            f"{has} {printable(first)}"
        )
    return [
        replace(image, label=known[image.name].label, target=known[image.name].target)
        for image in listed
    ]


def in_batches(images: list[LabelledImage], size: int) -> list[list[LabelledImage]]:
    """Return the images in batches of up to `size`."""
    return [images[start : start + size] for start in range(0, len(images), size)]


def _listed(folder: Path, left: Counter) -> list[LabelledImage]:
    images, folders = look_into(folder, left)
    found = _label_file(folder, images, folders)
    if found:
        labels, place = found
        if labels.path.parent == folder and labels.path.name not in (LABELS, NIPS2017):
            left["files that are not images"] -= 1
        if place != folder:
            left[f"images outside its {place.name}/"] += len(images)
            left["folders in it"] += len(folders) - 1
            images, folders = look_into(place, left)
        left["folders in it"] += len(folders)
        return _with_labels(labels, images, place, left)
    classes = class_folders(folder, images, folders)
    if classes:
        left["images outside its folders"] += len(images)
        left["folders in it"] += len(folders) - len(classes)
        return [
            _named(f, label, "" if OF_SYNSET.match(f.stem) else f"{c.name}_")
            for c, label in classes.items()
            for f in class_images(c, left)
        ]
    left["folders in it"] += len(folders)
    return [
        _named(f, synset_class(match[1], f) if match else None)
        for f in images
        for match in [OF_SYNSET.match(f.stem)]
    ]


def _named(
    path: Path, label: int | None, before: str = "", target: int | None = None
) -> LabelledImage:
    """Return an image; file systems differ in the normal form of names, so that NFC is taken."""
    name = unicodedata.normalize("NFC", f"{before}{path.stem}.png")
    return LabelledImage(path, name, label, target)


def _label_file(
    folder: Path, images: list[Path], folders: list[Path]
) -> tuple[LabelFile, Path] | None:
    """Return the label file of a folder, and the folder of its images; None without one.

    Args:
        images, folders: what lies in `folder`.
    """
    inner = folder / "images"
    if (folder / LABELS).is_file():
        labels = LabelFile(folder / LABELS, SUITE_LABELS)
        return labels, _place(labels, [folder, inner])
    if (folder / NIPS2017).is_file():
        labels = LabelFile(folder / NIPS2017, NIPS)
        return labels, _place(labels, [inner, folder])
    here = folder.resolve() if folder.name in ("", "..") else folder
    beside = here.parent
    if here.name == "images" and (beside / NIPS2017).is_file():
        return LabelFile(beside / NIPS2017, NIPS), folder
    if any(SYNSET.fullmatch(f.name) for f in folders):
        return None
    if here.name == "images" and images and (beside / LABELS).is_file():
        try:
            found = _fitting([LabelFile(beside / LABELS, SUITE_LABELS)], [folder], folder)
        except ValueError as error:  # it may be about anything
            logger.warning("%s is not used: %s", beside / LABELS, error)
        else:
            if found:
                return found
    if images and all(OF_SYNSET.match(image.stem) for image in images):
        return None
    found = _fitting(other_label_files(folder), [folder, inner], folder)
    return found or (_fitting(other_label_files(beside), [folder], folder) if images else None)


def _place(labels: LabelFile, places: list[Path]) -> Path:
    """Return the first folder that has images with a row, else the first that has images."""

    def fit(place: Path) -> tuple[bool, bool]:
        images, _ = look_into(place, Counter())
        return any(map(labels.has, images)), bool(images)

    return max(filter(Path.is_dir, places), key=fit)


def _fitting(
    files: list[LabelFile], places: list[Path], folder: Path
) -> tuple[LabelFile, Path] | None:
    """Return the label file that has rows for images in one of the places, and that place."""
    found = []
    for labels in files:
        place = _place(labels, places)
        if any(map(labels.has, look_into(place, Counter())[0])):
            found.append((labels, place))
        else:
            logger.warning("%s is not used: it names no image in %s", labels.path, folder)
    if len(found) > 1:
        (one, _), (other, _), *_ = found
        raise ValueError(
            f"{one.path} and {other.path} both name images in {folder}: keep one of them there"
        )
    return found[0] if found else None


def _with_labels(
    labels: LabelFile, images: list[Path], place: Path, left: Counter
) -> list[LabelledImage]:
    file = labels.path
    absent = labels.without_image(images)
    if absent and labels.form.strict:
        raise ValueError(f"{file} names {printable(absent[0])}, which is not an image in {place}")
    left[f"rows of {file.name} without an image"] += len(absent)
    if labels.form.selects:
        selected = [image for image in images if labels.has(image)]
        left[f"images without a row in {file.name}"] += len(images) - len(selected)
        images = selected
    listed = []
    for image in images:
        label, target = labels.classes(image)
        listed.append(_named(image, label, target=target))
    return listed
