"""Folders of labelled images.

Labels are 0-based ImageNet-1k class indices. Layouts that `list_images` reads:

    labels.csv beside the images, with the columns filename, label and perhaps target
    the NIPS 2017 set: dev_dataset.csv beside the images or beside the folder images/
    an ImageNet tree: n01440764/*.JPEG
    flat files named n01440764_*.png
    flat files without labels
"""

import contextlib
import csv
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
LABELS = "labels.csv"
UNFINISHED = ".unfinished"  # lies in a folder while select_images.py writes to it


@dataclass(frozen=True)
class LabelledImage:
    """An image file.

    Attributes:
        name: the file name of what is made from it.
        label: its class; None if unknown.
        target: the class that a targeted attack aims at; None if the label file has no such column.
    """

    path: Path
    name: str
    label: int | None
    target: int | None = None


def list_images(folder: Path) -> list[LabelledImage]:
    """Return the images of a folder in the order of their names.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no image in it, an unfinished selection, or labels that do not fit the images.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    if (folder / UNFINISHED).is_file():
        raise ValueError(
            f"the selection in {folder} was interrupted: give its command again, with --overwrite"
        )
    if (folder / LABELS).is_file():
        images = _with_labels_csv(folder)
    elif (folder / "dev_dataset.csv").is_file():
        inner = folder / "images"
        images = _nips2017(inner if inner.is_dir() else folder, folder / "dev_dataset.csv")
    elif folder.name == "images" and (folder.parent / "dev_dataset.csv").is_file():
        images = _nips2017(folder, folder.parent / "dev_dataset.csv")
    else:
        images = _with_class_names(folder)
    if not images:
        raise ValueError(f"no images in {folder} (looked for {', '.join(SUFFIXES)})")
    by_name = {}
    for image in images:
        try:
            image.name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{image.path!r}: a file name must be valid UTF-8") from None
        if image.name in by_name:
            raise ValueError(
                f"{by_name[image.name]} and {image.path} would both become {image.name}"
            )
        by_name[image.name] = image.path
    return images


def batches(images: list[LabelledImage], size: int) -> list[list[LabelledImage]]:
    """Return the images in batches of up to `size`."""
    return [images[start : start + size] for start in range(0, len(images), size)]


def embedded_images() -> list[LabelledImage]:
    """Return the 20 ImageNet images that the package foolbox carries."""
    folder = Path(importlib.util.find_spec("foolbox").origin).parent / "data"
    files = sorted(folder.glob("imagenet_*.jpg"))
    return [LabelledImage(f, f"{f.stem}.png", int(f.stem.rpartition("_")[2])) for f in files]


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def _with_labels_csv(folder: Path) -> list[LabelledImage]:
    file = folder / LABELS
    rows = _rows(file, "filename", "label")
    images = _files(folder)
    for name in rows.keys() - {image.name for image in images}:
        raise ValueError(f"{file} names {name}, which is not an image in {folder}")
    return [_labelled(image, rows.get(image.name), file, "label", "target") for image in images]


def _nips2017(folder: Path, file: Path) -> list[LabelledImage]:
    rows = _rows(file, "ImageId", "TrueLabel")
    return [  # the classes count from 1, in a scheme of 1001
        _labelled(image, rows.get(image.stem), file, "TrueLabel", "TargetClass", first=1)
        for image in _files(folder)
    ]


def _labelled(
    path: Path, row: dict | None, file: Path, label: str, target: str, first: int = 0
) -> LabelledImage:
    if row is None:
        raise ValueError(f"{file} has no row for {path.name}")
    aim = _label(row[target], file, first) if row.get(target) else None
    return LabelledImage(path, f"{path.stem}.png", _label(row[label], file, first), aim)


def _with_class_names(folder: Path) -> list[LabelledImage]:
    """List an ImageNet tree, or flat files that may begin with the name of their class."""
    wnid = re.compile(r"(n\d{8})(_|$)")
    classes = sorted(f for f in folder.iterdir() if f.is_dir() and wnid.fullmatch(f.name))
    if not classes:
        return [
            LabelledImage(f, f"{f.stem}.png", _class_index(match[1], f) if match else None)
            for f in _files(folder)
            for match in [wnid.match(f.stem)]
        ]
    return [
        LabelledImage(f, f"{f.stem}.png" if wnid.match(f.stem) else f"{c.name}_{f.stem}.png", label)
        for c in classes
        for label in [_class_index(c.name, c)]
        for f in _files(c)
    ]


def _class_index(wnid: str, path: Path) -> int:
    from timm.data import ImageNetInfo

    names = ImageNetInfo().label_names()
    if wnid not in names:
        raise ValueError(f"{path}: {wnid} is not one of ImageNet's 1000 classes")
    return names.index(wnid)


def _rows(file: Path, key: str, label: str) -> dict[str, dict]:
    """Return the rows of a label file by their key column."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            header = reader.fieldnames or []
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is not a CSV file in UTF-8 ({error})") from error
    if not {key, label} <= set(header):
        raise ValueError(
            f"{file} needs a header with the columns {key} and {label}, separated by commas; it "
            f"has {header}"
        )
    by_key = {}
    for row in rows:
        name = row[key]
        if not name or name in (".", "..") or "/" in name or "\\" in name:
            raise ValueError(f"{file}: {name!r} is not the name of a file beside it")
        if by_key.get(name, row)[label] != row[label]:
            raise ValueError(f"{file} has two labels for {name}")
        by_key[name] = row
    return by_key


def _label(text: str, file: Path, first: int = 0) -> int:
    digits = (text or "").strip()
    if not re.fullmatch("[0-9]{1,4}", digits) or int(digits) - first not in range(1000):
        raise ValueError(f"{file}: {text!r} is not a label from {first} to {999 + first}")
    return int(digits) - first


def write_labels(folder: Path, rows: Iterable[dict]) -> None:
    """Write labels.csv; each row has filename and label, and any further columns."""
    rows = list(rows)
    columns = dict.fromkeys(column for row in rows for column in row)
    with (
        whole_file(folder / LABELS) as part,
        part.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


@contextlib.contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Give a name to write under, and then rename it: the file appears whole or not at all."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(file)
    except OSError as error:
        raise OSError(f"can't write {file}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
