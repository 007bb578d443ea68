"""A folder's images and other files, and which of its folders are classes."""

import itertools
import logging
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from suite.images.labels import LABELS, NIPS2017, RUN, SUFFIXES, UNFINISHED, printable, synset_class

SYNSET = re.compile(r"(n[0-9]{8})")
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}

logger = logging.getLogger(__name__)


@dataclass
class Contents:
    """A folder's entries, sorted by name."""

    path: Path
    images: list[Path]
    folders: list[Path]
    left: Counter  # how many files are neither, by kind


def look_into(folder: Path) -> Contents:
    """Return a folder's images and folders, and how many other files it has."""
    images, folders, left = [], [], Counter()
    for entry in sorted(folder.iterdir()):
        image = entry.suffix.lower() in SUFFIXES
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            left["hidden files"] += image
        elif image:
            images.append(entry)
        elif entry.is_dir():
            folders.append(entry)
        else:
            left["files that are not images"] += entry.name not in (LABELS, NIPS2017, RUN)
    return Contents(folder, images, folders, left)


def look_into_class(folder: Path) -> list[Contents]:
    """Return what lies in a class's folder; the images of Tiny-ImageNet's lie in its images/."""
    contents = look_into(folder)
    if not contents.images and folder / "images" in contents.folders:
        return [contents, look_into(folder / "images")]
    return [contents]


def class_folders(top: Contents) -> tuple[dict[Path, int], bool]:
    """Return the folders in a folder that are classes, with their class indices.

    Also return whether these are only their places among the sorted names.

    Raises:
        ValueError: there are images in the folders, but these can't be classes.
    """
    for pattern in (SYNSET, re.compile(rf"{SYNSET.pattern}[-_. ].+")):
        named = {f: pattern.fullmatch(f.name) for f in top.folders}
        synsets = {f: synset_class(match[1], f) for f, match in named.items() if match}
        if synsets or top.images:
            return synsets, False
    filled = [f for f in top.folders if look_into_class(f)[-1].images]
    for own in filled:
        if any((own / name).exists() for name in (LABELS, NIPS2017, RUN, UNFINISHED)):
            raise ValueError(f"{printable(own)} has labels of its own: give it, not {top.path}")
    numbered = [f for f in top.folders if re.fullmatch("[0-9]{1,6}", f.name)]
    if not set(filled) <= set(numbered):
        return _sorted_names(top, filled), True
    by_class = sorted(numbered if filled else [], key=lambda f: int(f.name))
    for one, other in itertools.pairwise(by_class):
        if int(one.name) == int(other.name):
            raise ValueError(f"{one} and {other} are one class: make them one folder")
    if by_class:
        names = f"{by_class[0].name} to {by_class[-1].name}"
        logger.info(f"{top.path}: the names of its folders, {names}, are taken for class indices")
    return {f: int(f.name) for f in numbered if filled}, False


def _sorted_names(top: Contents, filled: list[Path]) -> dict[Path, int]:
    """Return class indices by torchvision's rule, if the folders seem to be classes."""
    folder, names = top.path, [f.name for f in top.folders]
    if len(filled) == 1:
        raise ValueError(f"{folder} has images in {printable(filled[0])} alone: give that folder")
    if "images" in names or SPLITS.issuperset(name.lower() for name in names):
        raise ValueError(f"in {folder}, {' and '.join(names)} are not classes: give one of them")
    for empty in top.folders:
        if empty not in filled:
            raise ValueError(
                f"no images in {printable(empty)}: the classes of {folder} are all of its folders, "
                "sorted by name, so it needs images, or must go if it is no class"
            )
    logger.warning(
        f"{folder}: its folders, sorted by name as in torchvision's ImageFolder, are taken for the "
        f"classes, {printable(names[0])} for 0 to {printable(names[-1])} for {len(names) - 1}"
    )
    return {f: index for index, f in enumerate(top.folders)}
