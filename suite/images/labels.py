"""Label files: CSVs that give images their classes; and the classes of ImageNet's synsets."""

import contextlib
import csv
import functools
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".webp", ".tif", ".tiff")
LABELS = "labels.csv"
NIPS2017 = "dev_dataset.csv"
TINY = "val_annotations.txt"
RUN = "run.json"
UNFINISHED = ".unfinished"  # lies in a folder while a script writes images to it


@dataclass(frozen=True)
class Format:
    """What the columns of a label file mean."""

    key: str  # column of the file names
    label: str  # column of the classes
    targets: tuple[str, ...] = ()  # columns of target classes, of which the first that is filled in
    synset: str | None = None  # column of WordNet ids, which the labels must agree with
    indices: range = range(10**6)  # of the classes, as the file counts them
    strict: bool = False  # names are compared with their suffixes, and all rows must have an image
    selects: bool = False  # images without a row are left out; else they are an error
    columns: tuple[str, ...] = ()  # of a file with tabs and without a header


SUITE_LABELS = Format("filename", "label", targets=("target", "targeted_label"), strict=True)
NIPS = Format("ImageId", "TrueLabel", targets=("TargetClass",), indices=range(1, 1001))
TA_BENCH_LABELS = Format("image_name", "class_index", synset="class", selects=True)
TINY_IMAGENET = Format("image", "synset", synset="synset", columns=("image", "synset"))


@dataclass(frozen=True)
class LabelledImage:
    """An image file and its classes."""

    path: Path
    name: str  # the file name of images that are made from it
    label: int | None  # its class index; None if unknown
    target: int | None = None  # class of a targeted attack; None if the label file names none


class LabelFile:
    """A label file, with its `rows` by the keys of their images.

    Raises:
        ValueError: it is not a CSV file in UTF-8, lacks a column, or contradicts itself.
    """

    def __init__(self, path: Path, form: Format):
        self.path, self.form = path, form
        rows = _rows(path, "\t" if form.columns else ",")
        header = form.columns or next(rows, [])
        if not {form.key, form.label} <= set(header):
            raise ValueError(
                f"{path} needs a header with the columns {form.key} and {form.label}, separated by "
                f"commas; it has {header}"
            )
        self.rows: dict[str, dict] = {}
        for cells in rows:
            row = dict.fromkeys(header) | dict(zip(header, cells, strict=False))
            name = row[form.key]
            if not name or name in (".", "..") or "/" in name or "\\" in name:
                raise ValueError(f"{path}: {name!r} is not the name of a file beside it")
            if name.startswith("."):
                continue
            other = self.rows.setdefault(self.key(name), row)
            if other[form.label] != row[form.label]:
                raise ValueError(f"{path} has two labels for {printable(name)}")
            if self._target(other) != self._target(row):
                raise ValueError(f"{path} has two targets for {printable(name)}")

    def key(self, name: str) -> str:
        """Return the key of an image of this name in `rows`."""
        if not self.form.strict:
            name = without_suffix(name.strip())
        return unicodedata.normalize("NFC", name)

    def names_some(self, images: list[Path]) -> bool:
        """Return whether one of these images has a row."""
        return any(self.key(image.name) in self.rows for image in images)

    def classes(self, key: str) -> tuple[int, int | None]:
        """Return an image's label and its target class, if any; both count from 0.

        Raises:
            ValueError: there is no such class, or the label contradicts the synset.
        """
        row = self.rows[key]
        target = self._class(text) if (text := self._target(row)) else None
        synset = (row.get(self.form.synset) or "").strip()
        if self.form.synset == self.form.label:
            return synset_class(synset, self.path), target
        label = self._class(row[self.form.label])
        if synset and synsets().get(synset, label) != label:
            raise ValueError(
                f"{self.path}: {synset} is ImageNet's class {synsets()[synset]}, not {label}"
            )
        return label, target

    def _target(self, row: dict) -> str | None:
        cells = [(row.get(column) or "").strip() for column in self.form.targets]
        return next(filter(None, cells), None)

    def _class(self, text: str | None) -> int:
        first, last = self.form.indices[0], self.form.indices[-1]
        digits = re.fullmatch(r"([0-9]{1,6})(\.0)?", (text or "").strip())  # .0 comes from pandas
        if digits and int(digits[1]) in self.form.indices:
            return int(digits[1]) - first
        allowed = f" from {first} to {last}" if first else ": a class index from 0"
        raise ValueError(f"{self.path}: {text!r} is not a label{allowed}")


def without_suffix(name: str) -> str:
    """Return a file name without an image's suffix, if it has one."""
    return name.rpartition(".")[0] if name.lower().endswith(SUFFIXES) else name


def _rows(file: Path, delimiter: str = ",") -> Iterator[list[str]]:
    """Yield the header of a CSV file, and its other rows that are not blank."""
    header = True
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            for row in csv.reader(stream, delimiter=delimiter, strict=True):
                if any(cell.strip() for cell in row):
                    yield [cell.strip() for cell in row] if header else row
                    header = False
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is not a CSV file in UTF-8 ({error})") from error


def other_label_files(folder: Path) -> list[LabelFile]:
    """Return a folder's label files in the formats of NIPS 2017, TA-Bench and Tiny-ImageNet."""
    tiny = folder / TINY
    found = [LabelFile(tiny, TINY_IMAGENET)] if tiny.is_file() else []
    for file in sorted(folder.glob("[!.]*.[cC][sS][vV]")):
        try:
            header = set(next(_rows(file), []))
        except (OSError, ValueError):
            continue
        forms = [form for form in (NIPS, TA_BENCH_LABELS) if {form.key, form.label} <= header]
        found += [LabelFile(file, form) for form in forms]
    return found


@functools.cache
def synsets() -> dict[str, int]:
    """Return the class indices of ImageNet-1k by WordNet id."""
    from timm.data import ImageNetInfo

    return {name: index for index, name in enumerate(ImageNetInfo().label_names())}


def synset_class(synset: str, path: Path) -> int:
    """Return the class index of the synset (a WordNet id) that a path is named by."""
    if synset not in synsets():
        raise ValueError(f"{path}: {synset} is not one of ImageNet's 1000 classes")
    return synsets()[synset]


def printable(name: str | Path) -> str:
    """Return a name as it is if it can be printed, else with escapes and in quotes."""
    return str(name) if str(name).isprintable() else repr(str(name))


def write_labels(folder: Path, rows: list[dict]) -> None:
    """Write labels.csv; each row has filename and label, and any further columns.

    A value of None is an empty cell, and a column without any value is left out.
    """
    rows = [{column: v for column, v in row.items() if v is not None} for row in rows]
    columns = dict.fromkeys(column for row in rows for column in row)
    with whole_file(folder / LABELS) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


@contextlib.contextmanager
def whole_file(file: Path) -> Iterator[Path]:
    """Yield a temporary name to write to, and rename it at the end, so that no file is partial."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(file)
    except OSError as error:
        raise OSError(f"can't write {file}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
