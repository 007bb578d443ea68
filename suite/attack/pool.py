"""The images that Admix mixes in."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from suite.images.folders import in_batches
from suite.images.labels import LabelledImage
from suite.images.pictures import read_batches, size_error

LARGEST = 1000


@dataclass(frozen=True)
class Pool:
    """Images of one size.

    Attributes:
        pixels: uint8, P x 3 x H x W.
        labels: P class indices; -1 where not known, for which the sources' answer is taken.
    """

    pixels: Tensor
    labels: Tensor


def read_pool(
    listed: Sequence[LabelledImage], seed: int, workers: int = 0, skip: bool = False
) -> Pool:
    """Return all images as a pool, or 1000 of them, which then depend on the seed.

    Args:
        workers: processes that decode, see `images.read_batches`.
        skip: whether to leave unreadable images out.

    Raises:
        ValueError: an image is not readable, has another size than others, or none is left.
    """
    order = torch.randperm(len(listed), generator=torch.Generator().manual_seed(seed))
    chosen = in_batches([listed[n] for n in sorted(order[:LARGEST].tolist())], 16)
    pixels, labels, first = [], [], None
    for batch, part in read_batches(chosen, workers, skipped=[] if skip else None):
        if not batch:
            continue
        size = batch[0].path, (part.shape[3], part.shape[2])
        first = first or size
        if size[1] != first[1]:
            raise ValueError(size_error(size, first))
        pixels.append(part)
        labels += [-1 if image.label is None else image.label for image in batch]
    if not pixels:
        raise ValueError("no readable image that Admix could mix in")
    return Pool(torch.cat(pixels), torch.tensor(labels))
