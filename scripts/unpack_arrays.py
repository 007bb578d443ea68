"""Unpack batches of arrays, as TA-Bench and linbp-attack write them, into a folder of PNGs.

    python scripts/unpack_arrays.py --input-dir pgd_arrays --output-dir adv_images/pgd \
        --names-from nat_images

The batches are batch_0.npy, batch_1.npy, ..., each N x 3 x H x W with pixels from 0 to 255. A
labels.npy for all of them may lie beside them, and so may a label file, such as TA-Bench's CSV
file, which names the images in the order of its rows. Labels go into a labels.csv.
"""

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from suite.images.folders import list_images
from suite.images.labels import (
    LABELS,
    SUITE_LABELS,
    UNFINISHED,
    LabelFile,
    other_label_files,
    warn_of_unread,
    without_suffix,
    write_labels,
)
from suite.running import cli

# https://github.com/qizhangli/TA-Bench, commit 3b9c59b, writes uint8;
# https://github.com/qizhangli/linbp-attack, commit 7408cea, whole numbers as floats.
BATCH = re.compile(r"batch_([0-9]+)\.npy")
CLASSES = "labels.npy"

Row = tuple[str, int | None, int | None]  # an image's name without a suffix, its label and target


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    # fmt: off
    add = parser.add_argument
    add("--input-dir", type=Path, required=True, help="folder of batch_0.npy, batch_1.npy, ...")
    add("--output-dir", type=Path, required=True, help="folder to write")
    add("--names-from", type=Path, metavar="FOLDER",
        help="folder of the natural images, whose names and labels the images get in the order of "
        "the names, where no label file names them; else they are 000000.png, 000001.png, ...")
    add("--overwrite", action="store_true", help="delete the images that the output folder has")
    # fmt: on
    return parser


def main(args) -> None:
    batches = [open_batch(file) for file in batch_files(args.input_dir)]
    rows = image_rows(args.input_dir, sum(map(len, batches)), args.names_from)

    import torch

    from suite.images.pictures import write_png
    from suite.images.selection import prepare_folder

    args.output_dir.mkdir(parents=True, exist_ok=True)
    prepare_folder(args.output_dir, args.overwrite)
    names = iter(name for name, _, _ in rows)
    for number, batch in enumerate(batches):
        for index, pixels in enumerate(batch):
            place = f"{args.input_dir / f'batch_{number}.npy'}, image {index}"
            levels = torch.from_numpy(whole_levels(pixels, place))
            write_png(levels, args.output_dir / f"{next(names)}.png")
    labelled = [
        {"filename": f"{name}.png", "label": label, "target": target}
        for name, label, target in rows
        if label is not None
    ]
    if labelled:
        write_labels(args.output_dir, labelled)
    (args.output_dir / UNFINISHED).unlink()
    print(f"{args.output_dir}: {len(rows)} images, {len(labelled)} labels")


def batch_files(folder: Path) -> list[Path]:
    """Return a folder's batches in the order of their numbers.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there is no batch, or one is missing or there twice.
    """
    found = {}
    for file in sorted(folder.iterdir()):
        match = BATCH.fullmatch(file.name)
        if match and found.setdefault(int(match[1]), file) != file:
            raise ValueError(f"{found[int(match[1])]} and {file.name} have the same number")
    if not found:
        raise ValueError(f"{folder} has no batch_0.npy")
    for number in range(max(found)):
        if number not in found:
            raise ValueError(f"{folder} has {found[max(found)].name}, but no batch_{number}.npy")
    return [found[number] for number in sorted(found)]


def open_batch(file: Path):
    """Return a batch as an array, N x 3 x H x W, of which no pixel is read yet."""
    array = load_array(file, "r")
    if array.ndim != 4 or array.shape[1] != 3 or array.dtype.kind not in "uif":
        shape = "x".join(map(str, array.shape))
        raise ValueError(f"{file} has {array.dtype} in the shape {shape}, not N x 3 x H x W pixels")
    return array


def load_array(file: Path, mmap_mode: str | None = None):
    import numpy as np

    try:
        return np.load(file, mmap_mode=mmap_mode, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file} is not a readable array ({error})") from error


def whole_levels(pixels, place: str):
    """Return pixels as uint8, if they are whole numbers from 0 to 255."""
    if pixels.dtype != "uint8" and not ((pixels >= 0) & (pixels <= 255) & (pixels % 1 == 0)).all():
        raise ValueError(
            f"{place}: its pixels are not whole numbers from 0 to 255. Pixels in [0, 1] are saved "
            "as np.round(255 * pixels).astype(np.uint8)"
        )
    return pixels.astype("uint8")


def image_rows(folder: Path, count: int, natural: Path | None) -> list[Row]:
    """Return the names and classes of a folder's images, in their order in the batches.

    Raises:
        ValueError: names or labels are not as many as the images, or contradict each other.
    """
    labels = read_classes(folder / CLASSES, count)
    rows = named_rows(folder, count, natural)
    for number, (name, label, _) in enumerate(rows):
        if labels and label not in (None, labels[number]):
            raise ValueError(
                f"{name} is image {number} of {folder}, of the label {label}, but {labels[number]} "
                f"in {CLASSES}: are the names in another order than the batches?"
            )
    if labels:
        return [(name, labels[n], target) for n, (name, _, target) in enumerate(rows)]
    return rows


def named_rows(folder: Path, count: int, natural: Path | None) -> list[Row]:
    """Return the rows of a folder's label file, else the natural images' in order, else numbers."""
    own = folder / LABELS
    files = [LabelFile(own, SUITE_LABELS)] if own.is_file() else other_label_files(folder)
    if len(files) > 1:
        raise ValueError(f"{files[0].path} and {files[1].path} both name images: keep one of them")
    if files:
        rows = [(without_suffix(key), *files[0].classes(key)) for key in files[0].rows]
        if len(rows) != count:
            raise ValueError(
                f"{files[0].path} has {len(rows)} rows, but the batches {count} images"
            )
        return rows
    warn_of_unread(folder)
    if natural is None:
        return [(f"{number:06d}", None, None) for number in range(count)]
    rows = [(Path(i.name).stem, i.label, i.target) for i in list_images(natural)]
    if len(rows) != count:
        first = (
            rows[count][0] + ".png" if count < len(rows) else f"image {len(rows)} of the batches"
        )
        raise ValueError(
            f"{folder} has {count} images in its batches, but there are {len(rows)} natural ones: "
            f"{first} has no partner"
        )
    return rows


def read_classes(file: Path, count: int) -> list[int] | None:
    """Return the class indices of labels.npy; None if there is no such file."""
    if not file.is_file():
        return None
    labels = load_array(file)
    if labels.ndim != 1 or labels.dtype.kind not in "ui" or (labels < 0).any():
        raise ValueError(f"{file} is not a row of class indices from 0")
    if len(labels) != count:
        raise ValueError(
            f"{file} has {len(labels)} labels, but the batches have {count} images: they differ "
            f"from number {min(len(labels), count)} on"
        )
    return labels.tolist()


if __name__ == "__main__":
    cli.run(main, get_parser())
