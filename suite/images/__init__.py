"""Folders of labelled images, and 8-bit pixels in and out.

No networks, no attacks. Begin with `list_images`, `read_batches` and `Writer`.
"""

from suite.images.classes import UNFINISHED
from suite.images.folders import LabelledImage, batches, embedded_images, list_images
from suite.images.labels import LABELS, whole_file, write_labels
from suite.images.pictures import (
    Writer,
    perturbation,
    read_batches,
    read_image,
    size_error,
    to_float,
    to_pixels,
    to_uint8,
)

__all__ = [
    "LABELS",
    "UNFINISHED",
    "LabelledImage",
    "Writer",
    "batches",
    "embedded_images",
    "list_images",
    "perturbation",
    "read_batches",
    "read_image",
    "size_error",
    "to_float",
    "to_pixels",
    "to_uint8",
    "whole_file",
    "write_labels",
]
