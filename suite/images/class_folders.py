"""What lies in a folder, and which of its folders are classes."""

import itertools
import logging
import re
from collections import Counter
from pathlib import Path

from suite.images.labels import LABELS, NIPS2017, SUFFIXES, printable, synset_class

UNFINISHED = ".unfinished"  # lies in a folder while a script writes images to it
RUN = "run.json"
SYNSET = re.compile(r"(n[0-9]{8})")
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}

logger = logging.getLogger(__name__)


def look_into(folder: Path, left: Counter) -> tuple[list[Path], list[Path]]:
    """Return the images and the folders in a folder in order, and count what is neither."""
    images, folders = [], []
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
    return images, folders


def class_images(folder: Path, left: Counter) -> list[Path]:
    """Return the images in a class's folder, or in its images/, as Tiny-ImageNet has them."""
    images, folders = look_into(folder, left)
    if not images and folder / "images" in folders:
        images, inner = look_into(folder / "images", left)
        left["folders in it"] += len(inner) - 1
    left["folders in it"] += len(folders)
    return images


def class_folders(folder: Path, images: list[Path], folders: list[Path]) -> dict[Path, int]:
    """Return the folders that are classes, with their class indices.

    Args:
        images, folders: what lies in `folder`.

    Raises:
        ValueError: there are images in the folders, but these can't be classes.
    """
    for pattern in (SYNSET, re.compile(rf"{SYNSET.pattern}[-_. ].+")):
        named = {f: pattern.fullmatch(f.name) for f in folders}
        synsets = {f: synset_class(match[1], f) for f, match in named.items() if match}
        if synsets or images:
            return synsets
    filled = [f for f in folders if class_images(f, Counter())]
    for own in filled:
        if any((own / name).exists() for name in (LABELS, NIPS2017, RUN, UNFINISHED)):
            raise ValueError(f"{printable(own)} has labels of its own: give it, not {folder}")
    if all(re.fullmatch("[0-9]{1,6}", f.name) for f in filled):
        return _numbered(folder, filled) if filled else {}
    return _sorted_names(folder, folders, filled)


def _numbered(folder: Path, folders: list[Path]) -> dict[Path, int]:
    """Return the class indices that folders are named by."""
    by_class = sorted(folders, key=lambda f: int(f.name))
    for one, other in itertools.pairwise(by_class):
        if int(one.name) == int(other.name):
            raise ValueError(f"{one} and {other} are one class: make them one folder")
    logger.info(
        "%s: the names of its folders, %s to %s, are taken for class indices",
        folder,
        by_class[0].name,
        by_class[-1].name,
    )
    return {f: int(f.name) for f in folders}


def _sorted_names(folder: Path, folders: list[Path], filled: list[Path]) -> dict[Path, int]:
    """Return class indices by torchvision's rule, if the folders seem to be classes."""
    names = sorted(f.name for f in folders)
    if len(filled) == 1:
        raise ValueError(f"{folder} has images in {printable(filled[0])} alone: give that folder")
    if "images" in names or SPLITS.issuperset(name.lower() for name in names):
        raise ValueError(f"in {folder}, {' and '.join(names)} are not classes: give one of them")
    for empty in folders:
        if empty not in filled:
            raise ValueError(
                f"no images in {printable(empty)}: the classes of {folder} are all of its folders, "
                "sorted by name, so it needs images or must go"
            )
    logger.warning(
        "%s: its folders, sorted by name as in torchvision's ImageFolder, are taken for the "
        "classes, %s for 0 to %s for %d",
        folder,
        printable(names[0]),
        printable(names[-1]),
        len(names) - 1,
    )
    return {folder / name: index for index, name in enumerate(names)}
