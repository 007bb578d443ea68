"""The images of a selection and its folder."""

from pathlib import Path

import PIL.Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from suite.images.class_folders import look_into
from suite.images.labels import LABELS, RUN, UNFINISHED


def square(
    picture: PIL.Image.Image,
    size: int,
    resize: int | None = None,
    whole: bool = False,
    bicubic: bool = False,
) -> PIL.Image.Image:
    """Return a picture's centre, `size` pixels square; a picture that has the size as it is.

    Args:
        resize: short side before the crop, also for pictures that have the size already; None for
            size * 256 / 224.
        whole: resize the whole picture to a square, without a crop.
        bicubic: bicubic instead of bilinear interpolation.
    """
    if resize is None and picture.size == (size, size):
        return picture  # enlarged and cropped it would be blurred
    mode = InterpolationMode.BICUBIC if bicubic else InterpolationMode.BILINEAR
    if whole:
        return transforms.resize(picture, [size, size], mode)
    resized = transforms.resize(picture, [resize or round(size * 256 / 224)], mode)
    return transforms.center_crop(resized, [size])


def prepare_folder(folder: Path, overwrite: bool) -> None:
    """Mark an output folder as unfinished; a ValueError if it has images, or is an attack's.

    With `overwrite`, an earlier selection in it is deleted first.
    """
    if (folder / RUN).exists():  # it would say that the selection was attacked
        raise ValueError(f"{folder} has a {RUN}, which an attack wrote: take another folder")
    ours = [folder / name for name in (LABELS, UNFINISHED)]
    selected = any(file.is_file() for file in ours)
    if overwrite and selected:
        for file in [*folder.glob("*.png"), *folder.glob(".*.part"), *ours]:
            file.unlink(missing_ok=True)
    if look_into(folder).images:
        hint = ", or --overwrite them" if selected else ""
        raise ValueError(f"{folder} has images: take another folder{hint}")
    (folder / UNFINISHED).touch()
