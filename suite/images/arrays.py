"""Images in NumPy's files: batch_0.npy, batch_1.npy, ..., as TA-Bench writes them.

https://github.com/qizhangli/TA-Bench, commit 3b9c59b: N x 3 x H x W, uint8, with labels.npy beside
them. The same authors' linbp-attack, commit 7408cea, has whole numbers from 0 to 255 as floats.
"""

import re
from pathlib import Path

import numpy as np
import PIL.Image

from suite.images.labels import LABELS, SUITE_LABELS, LabelFile, LabelledImage, other_label_files

BATCH = re.compile(r"batch_([0-9]+)\.npy")
CLASSES = "labels.npy"


def batch_files(folder: Path) -> list[Path]:
    """Return a folder's batches in the order of their numbers.

    Raises:
        ValueError: one is missing, or there twice.
    """
    found = {}
    for file in sorted(folder.iterdir()):
        match = BATCH.fullmatch(file.name)
        if match and found.setdefault(int(match[1]), file) != file:
            raise ValueError(f"{found[int(match[1])]} and {file.name} have the same number")
    for number in range(max(found, default=-1)):
        if number not in found:
            raise ValueError(f"{folder} has {found[max(found)].name}, but no batch_{number}.npy")
    return [found[number] for number in sorted(found)]


def list_arrays(files: list[Path]) -> list[LabelledImage]:
    """Return the images of batches, which lie in one folder.

    A label file beside them, as TA-Bench's CSV file, names them in the order of its rows; without
    one they have numbers for names. labels.npy is optional.

    Raises:
        ValueError: a file is no batch of images, or labels do not fit.
    """
    places = [(file, index) for file in files for index in range(len(_images(file)))]
    folder = files[0].parent
    labels = _classes(folder / CLASSES, len(places))
    rows = _rows(folder, len(places))
    listed = []
    for number, (file, index) in enumerate(places):
        name, label, target = rows[number] if rows else (f"{number:06d}", None, None)
        known = None if labels is None else labels[number]
        if None not in (label, known) and label != known:
            raise ValueError(
                f"{name} is image {number} of {folder}, of the label {label}, but {known} in "
                f"{CLASSES}: are the rows in another order than the batches?"
            )
        label = known if label is None else label
        listed.append(LabelledImage(file, f"{name}.png", label, target, index))
    return sorted(listed, key=lambda image: image.name)


def are_numbered(listed: list[LabelledImage]) -> bool:
    """Say whether images are those of batches, and have numbers for names."""
    return all(
        image.index is not None and image.name == f"{number:06d}.png"
        for number, image in enumerate(listed)
    )


def picture(image: LabelledImage) -> PIL.Image.Image:
    """Return an image of a batch as 8-bit RGB.

    Raises:
        ValueError: its pixels are no whole numbers from 0 to 255.
    """
    pixels = _images(image.path)[image.index]
    if pixels.dtype != np.uint8 and not ((pixels >= 0) & (pixels <= 255) & (pixels % 1 == 0)).all():
        raise ValueError(
            f"{image.path}, image {image.index}: its pixels are not whole numbers from 0 to 255. "
            "Pixels in [0, 1] are saved as np.round(255 * pixels).astype(np.uint8)"
        )
    return PIL.Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0), np.uint8))


def _images(file: Path) -> np.ndarray:
    """Return a batch, N x 3 x H x W, of which nothing is read yet."""
    array = _opened(file, "r")
    if array.ndim != 4 or array.shape[1] != 3 or array.dtype.kind not in "uif":
        shape = "x".join(map(str, array.shape))
        raise ValueError(f"{file} has {array.dtype} in the shape {shape}, not N x 3 x H x W pixels")
    return array


def _opened(file: Path, mmap_mode: str | None = None) -> np.ndarray:
    try:
        return np.load(file, mmap_mode=mmap_mode, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} is not a readable array ({error})") from error


def _classes(file: Path, count: int) -> list[int] | None:
    if not file.is_file():
        return None
    labels = _opened(file)
    if labels.ndim != 1 or labels.dtype.kind not in "ui" or (labels < 0).any():
        raise ValueError(f"{file} is not a row of class indices from 0")
    if len(labels) != count:
        first = min(len(labels), count)
        raise ValueError(
            f"{file} has {len(labels)} labels, but the batches have {count} images: they differ "
            f"from number {first} on"
        )
    return labels.tolist()


def _rows(folder: Path, count: int) -> list[tuple[str, int, int | None]]:
    """Return names, labels and targets of a folder's label file, in the order of its rows."""
    own = folder / LABELS
    files = [LabelFile(own, SUITE_LABELS)] if own.is_file() else other_label_files(folder)
    if len(files) > 1:
        raise ValueError(f"{files[0].path} and {files[1].path} both name images: keep one of them")
    if not files:
        return []
    rows = files[0].rows()
    if len(rows) != count:
        raise ValueError(f"{files[0].path} has {len(rows)} rows, but the batches {count} images")
    return rows
