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
    flat files, named n01440764_*.png or without labels
    folders named by class index: 0/*.png, 1/*.png
    torchvision's ImageFolder: cat/*.png, dog/*.png, whose sorted names are the classes

Other files and hidden ones are left out, and the log says how many.
"""

import logging
import os
import re
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

from suite.images.class_folders import SYNSET, Contents, class_folders, look_into, look_into_class
from suite.images.labels import (
    LABELS,
    NIPS,
    NIPS2017,
    SUFFIXES,
    SUITE_LABELS,
    UNFINISHED,
    LabelFile,
    LabelledImage,
    other_label_files,
    printable,
    synset_class,
    warn_of_unread,
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
    images, left = _listed(look_into(folder))
    left_out = ", ".join(f"{count} {what}" for what, count in left.items())
    if not images:
        hint = f"; it has {left_out}" if left_out else ""
        raise ValueError(f"no images in {folder} (looked for {', '.join(SUFFIXES)}{hint})")
    by_name = {}
    for image in images:
        try:
            image.name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{image.path!r}: a file name must be valid UTF-8") from None
        other = by_name.setdefault(image.name, image.path)
        if other != image.path:
            both = f"{printable(other)} and {printable(image.path)}"
            raise ValueError(f"{both} would both become {printable(image.name)}")
    if left_out:
        harmless = left.keys() == {"files that are not images"}
        level = logging.INFO if harmless else logging.WARNING
        logger.log(level, "left out of %s: %s", folder, left_out)
    return images


def matched(
    folder: Path, listed: list[LabelledImage], naturals: list[LabelledImage]
) -> list[LabelledImage]:
    """Return a folder's images; if none has a label, they get those of the natural images.

    Images are matched by name, and targets come with the labels. Without natural images, they stay
    as they are.

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
    return [replace(known[image.name], path=image.path) for image in listed]


def in_batches(images: list[LabelledImage], size: int) -> list[list[LabelledImage]]:
    """Return the images in batches of up to `size`."""
    return [images[start : start + size] for start in range(0, len(images), size)]


def _listed(top: Contents) -> tuple[list[LabelledImage], Counter]:
    """Return a folder's images, and what is left out, counted by kind."""
    images, inner, unmatched = [], [], Counter()
    if found := _label_file(top):
        labels, place = found
        inner = [place] if place is not top else []
        images, unmatched = _with_labels(labels, place)
        if labels.path.parent == top.path and labels.path.name not in (LABELS, NIPS2017):
            unmatched["files that are not images"] -= 1
    elif (numbered := class_folders(top))[0]:
        classes, by_name = numbered
        empty = []
        for folder, label in classes.items():
            contents = look_into_class(folder)
            inner += contents
            empty += [] if contents[-1].images else [folder]
            for image in contents[-1].images:
                before = "" if OF_SYNSET.match(image.stem) else f"{folder.name}_"
                named = _named(image, label, before=before)
                images.append(replace(named, class_folder=folder) if by_name else named)
        if empty:
            first = printable(empty[0].name)
            unmatched[f"class folders without images, such as {first}"] = len(empty)
    else:
        for image in top.images:
            synset = OF_SYNSET.match(image.stem)
            images.append(_named(image, synset_class(synset[1], image) if synset else None))
        if any(image.label is None for image in images):
            unmatched["files that are not images"] -= warn_of_unread(top.path)
            if top.path.name == "images":
                warn_of_unread(top.path.parent)
    left = sum((contents.left for contents in [top, *inner]), Counter())
    if inner:
        left[f"images outside its {'images/' if found else 'folders'}"] = len(top.images)
    left["folders in it"] = sum(len(each.folders) for each in [top, *inner]) - len(inner)
    return images, left + unmatched


def _named(
    path: Path, label: int | None, target: int | None = None, before: str = ""
) -> LabelledImage:
    """Return an image; file systems differ in the normal form of names, so that NFC is taken."""
    name = unicodedata.normalize("NFC", f"{before}{path.stem}.png")
    return LabelledImage(path, name, label, target)


def _label_file(top: Contents) -> tuple[LabelFile, Contents] | None:
    """Return the label file of a folder, and the folder of its images; None without one."""
    folder = top.path
    places = [top, *(look_into(f) for f in top.folders if f.name == "images")]
    for name, form, searched in ((LABELS, SUITE_LABELS, places), (NIPS2017, NIPS, places[::-1])):
        if os.path.lexists(folder / name):  # what is not a file there is an error when it is read
            labels = LabelFile(folder / name, form)
            return labels, _place(labels, searched)
    here = folder.resolve() if folder.name in ("", "..") else folder
    beside = here.parent
    if here.name == "images" and (beside / NIPS2017).is_file():
        return LabelFile(beside / NIPS2017, NIPS), top
    if any(SYNSET.fullmatch(f.name) for f in top.folders):
        return None
    if here.name == "images" and top.images and (beside / LABELS).is_file():
        try:
            if found := _fitting([LabelFile(beside / LABELS, SUITE_LABELS)], [top]):
                return found
        except ValueError as error:  # it may be about anything
            logger.warning("%s is not used: %s", beside / LABELS, error)
    if top.images and all(OF_SYNSET.match(image.stem) for image in top.images):
        return None
    found = _fitting(other_label_files(folder), places)
    return found or (_fitting(other_label_files(beside), [top]) if top.images else None)


def _place(labels: LabelFile, places: list[Contents]) -> Contents:
    """Return the first folder that has images with a row, else the first that has images."""
    return max(places, key=lambda place: (labels.names_some(place.images), bool(place.images)))


def _fitting(files: list[LabelFile], places: list[Contents]) -> tuple[LabelFile, Contents] | None:
    """Return the label file that has rows for images in one of the places, and that place."""
    folder, found = places[0].path, []
    for labels in files:
        place = _place(labels, places)
        if labels.names_some(place.images):
            found.append((labels, place))
        else:
            logger.warning("%s is not used: it names no image in %s", labels.path, folder)
    if len(found) > 1:
        one, other, *_ = (labels.path for labels, _ in found)
        raise ValueError(f"{one} and {other} both name images in {folder}: keep one of them there")
    return found[0] if found else None


def _with_labels(labels: LabelFile, place: Contents) -> tuple[list[LabelledImage], Counter]:
    """Return the images with their classes, and how many rows and images have no partner."""
    file, keys = labels.path, {image: labels.key(image.name) for image in place.images}
    absent = labels.rows.keys() - keys.values()
    if absent and labels.form.strict:
        first = min(labels.rows[key][labels.form.key] for key in absent)
        raise ValueError(f"{file} names {printable(first)}, which is not an image in {place.path}")
    unlabelled = [image for image, key in keys.items() if key not in labels.rows]
    if unlabelled and not labels.form.selects:
        raise ValueError(f"{file} has no row for {printable(unlabelled[0].name)}")
    left = Counter({f"rows of {file.name} without an image": len(absent)})
    left[f"images without a row in {file.name}"] = len(unlabelled)
    listed = [image for image in keys if keys[image] in labels.rows]
    return [_named(image, *labels.classes(keys[image])) for image in listed], left
