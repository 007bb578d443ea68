"""The images that Admix mixes in."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from suite.attack.sources import Sources
from suite.images.folders import in_batches
from suite.images.labels import LabelledImage
from suite.images.pictures import read_batches, size_error, to_float
from suite.running import devices

LARGEST_POOL = 1000


@dataclass(frozen=True)
class Pool:
    """Images of one size, on one device.

    Attributes:
        pixels: uint8, P x 3 x H x W.
        labels: P class indices, of two classes or more.

    Raises:
        ValueError: all images are of one class.
    """

    pixels: Tensor
    labels: Tensor

    def __post_init__(self):
        if (self.labels == self.labels[:1]).all():
            number = len(self.labels)
            raise ValueError(
                f"Admix mixes in images of other classes, but all {number} are of one class"
            )


def read_pool(
    listed: Sequence[LabelledImage],
    seed: int,
    sources: Sources,
    device: str = "cpu",
    workers: int = 0,
) -> Pool:
    """Return all readable images as a pool, or 1000 of them, which then depend on the seed.

    Args:
        sources: what they answer stands for labels that are missing.
        device: of the pool.
        workers: see `pictures.read_batches`.

    Raises:
        ValueError: an image has another size than others, or none is left.
    """
    order = torch.randperm(len(listed), generator=torch.Generator().manual_seed(seed))
    chosen = [listed[n] for n in sorted(order[:LARGEST_POOL].tolist())]
    pixels, labels, first = [], [], None
    for batch, part in read_batches(in_batches(chosen, 16), workers, skipped=[]):
        if not batch:
            continue
        size = batch[0].path, (part.shape[3], part.shape[2])
        first = first or size
        if size[1] != first[1]:
            raise ValueError(size_error(size, first))
        pixels.append(devices.to_device(part, device))
        known = [image.label for image in batch]
        if None in known:
            floats, names = to_float(pixels[-1]), [image.name for image in batch]
            found = sources.classes(sources.logits(floats, names))
            known = [a if label is None else label for label, a in zip(known, found, strict=True)]
        labels += known
    if not pixels:
        raise ValueError("no readable image that Admix could mix in")
    return Pool(torch.cat(pixels), devices.to_device(torch.tensor(labels), device))
