"""Folders of labelled images, and 8-bit pixels in and out.

No networks, no attacks. Begin with `list_images`, `read_batches` and `Writer`.
"""

from suite.images.classes import UNFINISHED
from suite.images.embedded import embedded_images
from suite.images.folders import batches, list_images, matched
from suite.images.labels import LABELS, LabelledImage, whole_file, write_labels
from suite.images.pictures import (
    Writer,
    read,
    read_batches,
    read_image,
    size_error,
    to_float,
    to_pixels,
    to_uint8,
)
from suite.images.selection import label_row, prepare_folder, square

__all__ = [
    "LABELS",
    "UNFINISHED",
    "LabelledImage",
    "Writer",
    "batches",
    "embedded_images",
    "label_row",
    "list_images",
    "matched",
    "prepare_folder",
    "read",
    "read_batches",
    "read_image",
    "size_error",
    "square",
    "to_float",
    "to_pixels",
    "to_uint8",
    "whole_file",
    "write_labels",
]
