"""Label files: CSVs that give images their classes; and the classes of ImageNet's synsets."""

import contextlib
import csv
import functools
import glob
import logging
import os
import re
import stat
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
MOST_BYTES = 2**30  # of a file that is read


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

    @property
    def read(self) -> tuple[str, ...]:
        """The columns that count."""
        return tuple(filter(None, (self.key, self.label, *self.targets, self.synset)))


SUITE_LABELS = Format("filename", "label", targets=("target", "targeted_label"), strict=True)
NIPS = Format("ImageId", "TrueLabel", targets=("TargetClass",), indices=range(1, 1001))
TA_BENCH_LABELS = Format("image_name", "class_index", synset="class", selects=True)
TINY_IMAGENET = Format("image", "synset", synset="synset", columns=("image", "synset"))
CSV_FILES = "[!.]*.[cC][sS][vV]"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledImage:
    """An image file and its classes."""

    path: Path
    name: str  # the file name of images that are made from it
    label: int | None  # its class index; None if unknown
    target: int | None = None  # class of a targeted attack; None if the label file names none
    class_folder: Path | None = None  # if its place among the folders' sorted names is the label


class LabelFile:
    """A label file, with its `rows` by the keys of their images.

    Raises:
        ValueError: it is not a CSV file in UTF-8, lacks a column or has it twice, has a row that
            is longer than the header, or contradicts itself.
    """

    def __init__(self, path: Path, form: Format):
        self.path, self.form = path, form
        rows = _rows(path, "\t" if form.columns else ",")
        header = form.columns or next(rows, (0, []))[1]
        if not {form.key, form.label} <= set(header):
            raise ValueError(
                f"{path} needs a header with the columns {form.key} and {form.label}, separated by "
                f"commas; it has {header}"
            )
        for column in form.read:
            if not form.columns and header.count(column) > 1:
                raise ValueError(f"{path} has {header.count(column)} columns {column}: keep one")
        self.rows: dict[str, dict] = {}
        self._lines: dict[str, int] = {}
        for line, cells in rows:
            place = f"{path}, line {line}"
            if not form.columns and any(cell.strip() for cell in cells[len(header) :]):
                raise ValueError(f"{place}: {len(cells)} cells, but {len(header)} columns")
            row = dict.fromkeys(header) | dict(zip(header, cells, strict=False))
            name = row[form.key]
            if not name or name == ".." or Path(name).name != name:
                raise ValueError(f"{place}: {name!r} is not the name of a file beside it")
            if name.startswith("."):
                continue
            other = self.rows.setdefault(self.key(name), row)
            self._lines.setdefault(self.key(name), line)
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
        row, place = self.rows[key], f"{self.path}, line {self._lines[key]}"
        text = self._target(row)
        target = self._class(text, "target class", place) if text else None
        synset = (row.get(self.form.synset) or "").strip()
        if self.form.synset == self.form.label:
            return synset_class(synset, place), target
        label = self._class(row[self.form.label], "label", place)
        if synset and synsets().get(synset, label) != label:
            raise ValueError(
                f"{place}: {synset} is ImageNet's class {synsets()[synset]}, not {label}"
            )
        return label, target

    def _target(self, row: dict) -> str | None:
        cells = [(row.get(column) or "").strip() for column in self.form.targets]
        return next(filter(None, cells), None)

    def _class(self, text: str | None, what: str, place: str) -> int:
        first, last = self.form.indices[0], self.form.indices[-1]
        digits = re.fullmatch(r"([0-9]{1,6})(\.0)?", (text or "").strip())  # .0 comes from pandas
        if digits and int(digits[1]) in self.form.indices:
            return int(digits[1]) - first
        allowed = f" from {first} to {last}" if first else ": a class index from 0"
        raise ValueError(f"{place}: {text!r} is not a {what}{allowed}")


def without_suffix(name: str) -> str:
    """Return a file name without an image's suffix, if it has one."""
    return name.rpartition(".")[0] if name.lower().endswith(SUFFIXES) else name


def refuse_special_file(path: Path) -> None:
    """Raise a ValueError if a file is a pipe or a device, which may never end, or too large."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise ValueError("a pipe or a device")
    if status.st_size > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES >> 20} MiB")


def _rows(file: Path, delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Yield the header of a CSV file and its other rows that are not blank, each with its line."""
    header = True
    try:
        refuse_special_file(file)
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            for row in reader:
                if any(cell.strip() for cell in row):
                    yield reader.line_num, [cell.strip() for cell in row] if header else row
                    header = False
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{file} is not a CSV file in UTF-8 ({error})") from error


def other_label_files(folder: Path) -> list[LabelFile]:
    """Return a folder's label files in the formats of NIPS 2017, TA-Bench and Tiny-ImageNet."""
    tiny = folder / TINY
    found = [LabelFile(tiny, TINY_IMAGENET)] if tiny.is_file() else []
    for file in sorted(folder.glob(CSV_FILES)):
        found += [LabelFile(file, form) for form in _forms(file)]
    return found


def _forms(file: Path) -> list[Format]:
    """Return the formats, of NIPS 2017 or TA-Bench, whose columns a CSV file has."""
    with contextlib.suppress(OSError, ValueError):
        header = set(next(_rows(file), (0, []))[1])
        return [form for form in (NIPS, TA_BENCH_LABELS) if {form.key, form.label} <= header]
    return []


def warn_of_unread(folder: Path) -> int:
    """Warn of a folder's CSV files that are no label files, and return how many they are."""
    unread = [f for f in sorted(folder.glob(CSV_FILES)) if not (f.is_dir() or _forms(f))]
    for file in unread:
        try:
            header = ", ".join(next(_rows(file), (0, []))[1])
            reason = f"{printable(file)} is not used: it has the columns {header}"
        except (OSError, ValueError) as error:
            reason = f"not used: {error}"
        known = [f"{form.key} and {form.label}" for form in (SUITE_LABELS, NIPS, TA_BENCH_LABELS)]
        logger.warning(
            "%s; labels are read from %s of %s, or from %s of any CSV file",
            *(reason, known[0], LABELS, " or ".join(known[1:])),
        )
    return len(unread)


@functools.cache
def synsets() -> dict[str, int]:
    """Return the class indices of ImageNet-1k by WordNet id."""
    from timm.data import ImageNetInfo

    return {name: index for index, name in enumerate(ImageNetInfo().label_names())}


def synset_class(synset: str, place: Path | str) -> int:
    """Return the class index of the synset (a WordNet id) that stands in a place."""
    if synset not in synsets():
        raise ValueError(f"{place}: {synset} is not one of ImageNet's 1000 classes")
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


def remove_parts(file: Path) -> None:
    """Remove what a killed process left of a file that it wrote as `whole_file` does."""
    for part in file.parent.glob(f".{glob.escape(file.name)}.*.part"):
        with contextlib.suppress(OSError):
            part.unlink()


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
