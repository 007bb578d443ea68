"""8-bit pixels in and out: images decoded ahead of the network, PNGs encoded behind it."""

import contextlib
import io
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from torch import Tensor

from suite.images.labels import LabelledImage, printable, refuse_special_file, whole_file
from suite.images.metadata import refuse_damaged, without_metadata

logger = logging.getLogger(__name__)
# An image's pixels, uint8 3 x H x W, or why they can't be read; not a tensor, since torch would
# start further threads in each of ours.
Decoded = np.ndarray | ValueError


def read_image(path: Path) -> PIL.Image.Image:
    """Return an image file as 8-bit RGB, upright; a ValueError if it is not readable.

    16-bit images are scaled, transparency is dropped, and of an animation the first frame is taken.
    Of the metadata, only the orientation counts.
    """
    data = b""
    try:
        data = read_content(path)
        return _decode(data)
    except Exception as error:  # PIL's decoders raise whatever comes up in a broken file
        with contextlib.suppress(Exception):
            return _decode(without_metadata(data))
        reason = " ".join(str(error).split())
        raise ValueError(f"{printable(path)} is not a readable image ({reason})") from error


def read_content(path: Path) -> bytes:
    """Return an image file's bytes; a ValueError if it is a pipe or a device, or too large."""
    refuse_special_file(path)
    return path.read_bytes()


def _decode(data: bytes) -> PIL.Image.Image:
    with PIL.Image.open(io.BytesIO(data)) as image:
        if image.width * image.height > PIL.Image.MAX_IMAGE_PIXELS:
            raise ValueError(f"{image.width} x {image.height} are too many pixels")
        refuse_damaged(data)
        image.load()
        if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
            raise ValueError("what is white in 32-bit pixels is not known: save it with 8 bits")
        with contextlib.suppress(Exception):  # broken metadata; the pixels are good
            image.getexif()
            image.info = {}  # exif_transpose would write it again, which fails on what is odd in it
            PIL.ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):  # PIL would clip 16-bit greys instead of scaling them
            levels = np.asarray(image).astype(float) / 257
            image = PIL.Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))
        return image.convert("RGB")


def to_pixels(image: PIL.Image.Image) -> Tensor:
    """Return an RGB image as uint8, 3 x H x W."""
    return torch.from_numpy(np.array(np.asarray(image).transpose(2, 0, 1), order="C"))


def read_batches(
    batches: list[list[LabelledImage]],
    workers: int = 0,
    prepare: Callable[[PIL.Image.Image, str], PIL.Image.Image] | None = None,
    skipped: list[str] | None = None,
) -> Iterator[tuple[list[LabelledImage], Tensor]]:
    """Yield batches with their pixels as uint8, N x 3 x H x W.

    Args:
        workers: threads that decode up to two batches ahead; 0 to decode in the calling thread.
        prepare: applied to each picture and its image's name, for example a resize.
        skipped: gets the names of unreadable images, which are left out of their batches, even if
            none is left; None to raise at the first one.

    Raises:
        ValueError: an image is not readable, or has another size than others of its batch.
    """

    def decode(image: LabelledImage) -> Decoded:
        try:
            picture = read_image(image.path)
            return to_pixels(prepare(picture, image.name) if prepare else picture).numpy()
        except ValueError as error:
            return error

    with contextlib.closing(_decoded_ahead(decode, batches, workers)) as results:
        for batch in batches:
            kept, pixels = [], []
            for image in batch:
                decoded = next(results)
                if isinstance(decoded, ValueError):
                    if skipped is None:
                        raise decoded
                    skipped.append(image.path.name)
                    logger.warning("skipped: %s", decoded)
                    continue
                if pixels and decoded.shape != pixels[0].shape:
                    sizes = [(each.shape[2], each.shape[1]) for each in (decoded, pixels[0])]
                    raise ValueError(size_error((image.path, sizes[0]), (kept[0].path, sizes[1])))
                kept.append(image)
                pixels.append(decoded)
            yield kept, torch.from_numpy(np.stack(pixels) if pixels else np.empty(0))


def _decoded_ahead(
    decode: Callable[[LabelledImage], Decoded], batches: list[list[LabelledImage]], threads: int
) -> Iterator[Decoded]:
    """Yield the images decoded; each thread is two ahead, or all together are two batches ahead."""
    images = itertools.chain(*batches)
    if not threads:
        yield from map(decode, images)
        return
    ahead = 2 * max([threads, *map(len, batches)])
    PIL.Image.init()  # in two threads at once it would leave one of them without some formats
    pool = ThreadPoolExecutor(threads)
    jobs: deque[Future] = deque()
    try:
        for image in images:
            jobs.append(pool.submit(decode, image))
            if len(jobs) == ahead:
                yield jobs.popleft().result()
        while jobs:
            yield jobs.popleft().result()
    finally:
        # Without waiting, since Ctrl-C may have come while a lock was held that the threads need.
        pool.shutdown(wait=False, cancel_futures=True)


def size_error(one: tuple[Path, tuple[int, int]], other: tuple[Path, tuple[int, int]]) -> str:
    """Return the error of two images, each a path and its (width, height), that differ in size."""
    (path, size), (first, first_size) = one, other
    return (
        f"{printable(path)} is {size[0]} x {size[1]} pixels, but {printable(first)} is "
        f"{first_size[0]} x {first_size[1]}; select_images.py makes images of one size"
    )


class Writer(contextlib.AbstractContextManager):
    """Writes PNGs in threads; at most `waiting` images are kept in memory.

    Leaving the context waits for all images, unless Ctrl-C was pressed. An error in a thread is
    raised by a later call, or on leaving. `waited` counts the seconds that `write` has waited for a
    place in memory.
    """

    def __init__(self, threads: int = 1, waiting: int = 64):
        self._pool = ThreadPoolExecutor(max(1, threads))
        self._jobs: deque[Future] = deque()
        self._waiting = waiting
        self.waited = 0.0

    def write(self, pixels: Tensor, file: Path) -> None:
        """Write uint8 pixels, 3 x H x W, to a PNG file, soon."""
        start = time.perf_counter()
        while len(self._jobs) >= self._waiting:
            self._jobs.popleft().result()
        self.waited += time.perf_counter() - start
        self._jobs.append(self._pool.submit(write_png, pixels, file))

    def __exit__(self, kind, error, traceback) -> None:
        stopped = error is not None and not isinstance(error, Exception)
        self._pool.shutdown(wait=not stopped, cancel_futures=error is not None)
        for job in self._jobs if error is None else ():
            job.result()


def to_float(pixels: Tensor) -> Tensor:
    """Return uint8 pixels as float in [0, 1]."""
    return pixels.float() / 255


def to_uint8(adversarial: Tensor, natural: Tensor, epsilon: float) -> Tensor:
    """Round adversarial pixels to 8 bits, within epsilon of the natural ones.

    Args:
        adversarial: float in [0, 1], N x 3 x H x W; finite, which is not checked, since that would
            mean waiting for a GPU.
        natural: uint8, the same shape.
        epsilon: largest perturbation, in 1/255; it is rounded down to whole levels.
    """
    levels = (adversarial * 255).round()
    natural = natural.to(levels)
    within = levels.clamp(natural - math.floor(epsilon), natural + math.floor(epsilon))
    return within.clamp(0, 255).to(torch.uint8)


def write_png(pixels: Tensor, file: Path) -> None:
    """Write uint8 pixels, 3 x H x W, to a PNG file."""
    picture = PIL.Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())
    with whole_file(file) as part:
        # Noise hardly shrinks: PIL's default, 6, takes half as long again to save 3 % of the bytes.
        picture.save(part, "PNG", compress_level=1)
