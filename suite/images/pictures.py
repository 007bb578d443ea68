"""8-bit pixels in and out: images decoded ahead of the network, PNGs encoded behind it."""

import contextlib
import ctypes
import io
import logging
import math
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from suite.images import arrays, metadata
from suite.images.labels import LabelledImage, printable, whole_file

logger = logging.getLogger(__name__)


def read(image: LabelledImage) -> PIL.Image.Image:
    """Return a listed image as 8-bit RGB, upright.

    Raises:
        ValueError: it is not readable.
    """
    return read_image(image.path) if image.index is None else arrays.picture(image)


def read_image(path: Path) -> PIL.Image.Image:
    """Return an image file as 8-bit RGB, upright.

    Greyscale, palette and CMYK images are converted, 16-bit ones scaled to 8 bits, transparency is
    dropped, and of an animation the first frame is taken. Of metadata, the orientation counts.

    Raises:
        ValueError: the file is not a readable image.
    """
    try:
        return _decode(path)
    except Exception as error:  # PIL's decoders raise whatever comes up in a broken file
        with contextlib.suppress(Exception):
            return _decode(io.BytesIO(metadata.without_metadata(path.read_bytes())))
        reason = " ".join(str(error).split())
        raise ValueError(f"{printable(path)} is not a readable image ({reason})") from error


def _decode(file: Path | io.BytesIO) -> PIL.Image.Image:
    with PIL.Image.open(file) as image:
        image.load()
        if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
            raise ValueError("what is white in 32-bit pixels is not known: save it with 8 bits")
        upright = metadata.upright(image)
        if upright.mode.startswith("I"):  # PIL would clip 16-bit greys instead of scaling them
            levels = np.asarray(upright).astype(float) / 257
            upright = PIL.Image.fromarray(levels.round().clip(0, 255).astype(np.uint8))
        return upright.convert("RGB")


def to_pixels(image: PIL.Image.Image) -> Tensor:
    """Return an RGB image as uint8, 3 x H x W."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def read_batches(
    batches: list[list[LabelledImage]],
    workers: int = 0,
    prepare: Callable[[PIL.Image.Image], PIL.Image.Image] | None = None,
    skipped: list[str] | None = None,
    untouched: list[str] | None = None,
) -> Iterator[tuple[list[LabelledImage], Tensor]]:
    """Yield batches with their pixels as uint8, N x 3 x H x W.

    Args:
        workers: processes that decode ahead, two batches each; 0 to decode here.
        prepare: applied to each picture, for example a resize; a function that pickle can take.
        skipped: where to note the names of unreadable images, which their batches, as many as
            given, then lack; None to stop at the first one.
        untouched: where to note the names of images that `prepare` returns as they are.

    Raises:
        ValueError: an image is not readable, or has another size than others of its batch.
    """
    loader = DataLoader(
        _Decoder(batches, prepare),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=max(0, min(workers, len(batches) - 1)),  # nothing comes after the last one
        worker_init_fn=_leave_with_main_process,
    )
    with _signals_wait():
        decoded = iter(loader)
    for batch in batches:
        pixels, broken, same, other_size = next(decoded)
        for index, message in broken.items():
            if skipped is None:
                raise ValueError(message)
            image = batch[index]
            skipped.append(image.path.name if image.index is None else image.name)
            logger.warning("skipped: %s", message)
        if other_size:
            raise ValueError(other_size)
        if untouched is not None:
            untouched += [batch[index].name for index in same]
        kept = [image for n, image in enumerate(batch) if n not in broken]
        yield kept, torch.from_numpy(pixels)


class _Decoder(Dataset):
    """Batches: pixels, errors of unreadable images, which ones are as read, an error about sizes.

    Errors are returned, since a DataLoader adds its worker's traceback to what is raised. Pixels
    are numpy's, which come through a pipe: tensors would take shared memory, of which containers
    have little, and a DataLoader waits for ever for one that found none.
    """

    def __init__(self, batches: list[list[LabelledImage]], prepare: Callable | None):
        self.batches = batches
        self.prepare = prepare

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> tuple[np.ndarray, dict[int, str], list[int], str | None]:
        pixels, broken, same, first = [], {}, [], None
        for index, image in enumerate(self.batches[number]):
            try:
                as_it_is = read(image)
                picture = self.prepare(as_it_is) if self.prepare else as_it_is
            except ValueError as error:
                broken[index] = str(error)
                continue
            if picture is as_it_is:
                same.append(index)
            first = first or (image.path, picture.size)
            if picture.size != first[1]:
                return np.empty(0), broken, [], size_error((image.path, picture.size), first)
            pixels.append(to_pixels(picture).numpy())
        # Laid out here, beside the network, as it takes them.
        laid_out = np.ascontiguousarray(np.stack(pixels)) if pixels else np.empty(0)
        return laid_out, broken, same, None


def _as_it_is(item: tuple) -> tuple:
    return item


def size_error(one: tuple[Path, tuple[int, int]], other: tuple[Path, tuple[int, int]]) -> str:
    """Say that two images, each a path with its width and height, have not one size."""
    (path, size), (first, first_size) = one, other
    return (
        f"{printable(path)} is {size[0]} x {size[1]} pixels, but {printable(first)} is "
        f"{first_size[0]} x {first_size[1]}; select_images.py makes images of one size"
    )


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Put Ctrl-C and SIGTERM off until processes are started.

    os.fork ignores what a signal raises in its callbacks, and logging's one then keeps its lock.
    """
    came = []
    handlers = {
        number: signal.signal(number, lambda number, frame: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


def _leave_with_main_process(worker: int) -> None:
    """Leave signals to the main process, which ends its workers, and end when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.platform == "linux":
        # By itself it would wait for its pipe to empty, which nobody reads any more.
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        parent = multiprocessing.parent_process().pid
        if multiprocessing.get_start_method() == "fork" and os.getppid() != parent:
            os._exit(1)  # it was killed before


class Writer(contextlib.AbstractContextManager):
    """Writes PNGs on threads behind the network; at most `waiting` of them are kept in memory.

    Attributes:
        waited: for how many seconds `write` has waited for a place in memory.

    Leaving it waits for all of them, unless by Ctrl-C. What goes wrong in a thread is raised at a
    later call, or on leaving.
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
    """Round adversarial pixels to 8 bits, within epsilon of the natural ones in whole levels.

    Args:
        adversarial: float in [0, 1], N x 3 x H x W.
        natural: uint8, the same shape.
        epsilon: largest perturbation, in 1/255; of a fraction, the whole part counts.

    Raises:
        ValueError: a pixel is not finite.
    """
    if not adversarial.isfinite().all():
        raise ValueError("the pixels are not finite numbers")
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
