"""What a selection makes of pictures, and the folder that it writes."""

from pathlib import Path

import PIL.Image

from suite.images.class_folders import UNFINISHED
from suite.images.labels import LABELS, LabelledImage


def square(
    picture: PIL.Image.Image,
    size: int,
    resize: int | None = None,
    whole: bool = False,
    bicubic: bool = False,
) -> PIL.Image.Image:
    """Return a picture's centre, `size` pixels square; a picture of just that size as it is.

    Args:
        resize: short side before the crop, also of pictures that have the size already; None for
            size * 256 / 224.
        whole: resize all of the picture to a square, without a crop.
        bicubic: resample by cubic interpolation, not by linear.
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as transforms

    if resize is None and picture.size == (size, size):
        return picture  # enlarged and cropped it would be blurred
    mode = InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR
    if whole:
        return transforms.resize(picture, [size, size], mode)
    resized = transforms.resize(picture, [resize or round(size * 256 / 224)], mode)
    return transforms.center_crop(resized, [size])


def prepare_folder(folder: Path, overwrite: bool) -> None:
    """Mark an output folder as unfinished, emptied if that is wanted and a selection wrote it.

    Raises:
        ValueError: it has images.
    """
    ours = [folder / name for name in (LABELS, UNFINISHED)]
    selected = any(file.is_file() for file in ours)
    if overwrite and selected:
        for file in [*folder.glob("*.png"), *folder.glob(".*.part"), *ours]:
            file.unlink(missing_ok=True)
    if any(folder.glob("*.png")):
        hint = ", or --overwrite them" if selected else ""
        raise ValueError(f"{folder} has images: take another folder{hint}")
    (folder / UNFINISHED).touch()


def selected_row(image: LabelledImage, folder: Path | None) -> dict:
    """Return a row of labels.csv; its `source` is the file that the image came from.

    Args:
        folder: which `source` is relative to; None for the image's own.
    """
    source = image.path.relative_to(folder or image.path.parent)
    row = {"filename": image.name, "label": image.label, "source": source}
    return row if image.target is None else row | {"target": image.target}
