"""What a run takes of its machine: the device, its arithmetic and its memory."""

import contextlib
import ctypes
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from suite.running.precision import DEFAULT

logger = logging.getLogger(__name__)
PartResult = TypeVar("Result")

LARGEST_BATCH = 1024
SHORT_OF_MEMORY = (
    "out of memory",
    "t allocate memory",  # PyTorch on a CPU
    "not enough memory",  # on Windows
    "could not create a primitive",  # oneDNN
    "ALLOC_FAILED",  # cuBLAS and cuDNN
    "unable to find an engine",  # cuDNN
)


def choose_device(no_cuda: bool, precision: str = DEFAULT) -> str:
    """Return the device of this process, set up: a GPU where there is one, unless it is not wanted.

    Args:
        precision: see `precision.py`; with "fp32", sums on a GPU get a fixed order.

    Raises:
        ValueError: torchrun started more processes on this machine than it has GPUs.
    """
    if no_cuda or not torch.cuda.is_available():
        _keep_freed_memory()
        return "cpu"
    exact = precision == "fp32"
    torch.backends.cuda.matmul.allow_tf32 = not exact
    torch.backends.cudnn.allow_tf32 = not exact
    if exact:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it as it starts
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # which costs time alone
    number, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= there:
        raise ValueError(
            f"--nproc-per-node starts more processes here than there are GPUs, of which {there} "
            "are visible"
        )
    device = f"cuda:{number}"
    torch.cuda.set_device(device)
    return device


def _keep_freed_memory() -> None:
    """Keep glibc from giving the memory of each layer back to the system, which clears it anew."""
    trim_threshold, mmap_threshold = -1, -3  # as malloc.h has them
    with contextlib.suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(trim_threshold, -1)  # never
        mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25)  # older ones' largest


def _give_back_freed_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def batch_size(device: str, wanted: int | None = None) -> int:
    """Return the batch size that is wanted, or one with which the device is busy."""
    return wanted or (16 if device == "cpu" else 64)


def decoders(wanted: int | None = None) -> int:
    """Return how many processes decode images: as wanted, or the cores that this one has."""
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that the device's memory was not enough."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SHORT_OF_MEMORY)


class Parts:
    """Runs a function on a batch in parts that fit into the device's memory.

    Attributes:
        most: how many images fit; None while nothing has failed.
    """

    def __init__(self):
        self.most: int | None = None

    def __call__(self, function: Callable[[slice], PartResult], size: int) -> list[PartResult]:
        """Return what `function` returns for each part of a batch of `size` images.

        When memory runs out, the batch is begun again with parts of half the size.
        """
        while True:
            part = max(1, min(self.most or size, size))
            try:
                return [function(slice(at, at + part)) for at in range(0, size, part)]
            except (RuntimeError, MemoryError) as error:
                if part == 1 or not out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0]
            # Outside the handler, which keeps the failed part's tensors alive.
            self.most = part // 2
            _give_back_freed_memory()
            logger.warning("memory is short: %d images at a time now (%s)", self.most, reason)


def find_batch_size(device: str, parts: Parts, attempt: Callable[[slice], object]) -> int:
    """Return a batch size that fits the device; on a GPU, one with which it is busy.

    Args:
        attempt: what to do with so many images, as a trial; it is timed on a GPU, and sizes double
            as long as that makes an image faster by a twentieth.
    """
    size = batch_size(device)
    if device == "cpu":  # whose memory shows no limit, and which is busy
        return size
    parts(attempt, size)
    size = min(parts.most or size, size)
    seconds = _seconds(attempt, size)
    while parts.most is None and size < LARGEST_BATCH:
        try:
            attempt(slice(0, 2 * size))
            doubled = _seconds(attempt, 2 * size)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            _give_back_freed_memory()
            break
        if doubled > 2 * seconds / 1.05:
            break
        size, seconds = 2 * size, doubled
    return size


def _seconds(attempt: Callable[[slice], object], size: int) -> float:
    """Return how long a trial takes that was made before, so that nothing is new to the device."""
    synchronize()
    start = time.perf_counter()
    attempt(slice(0, size))
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait for a GPU to finish, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def ahead(batches: Iterable[tuple[list, Tensor]], device: str) -> Iterator[tuple[list, Tensor]]:
    """Yield batches with their pixels on a device; a GPU gets the next one while it has work."""
    waiting = None
    try:
        for batch, pixels in batches:
            if device == "cpu":
                yield batch, pixels
                continue
            copied = batch, to_device(pixels, device)
            if waiting:
                yield waiting
            waiting = copied
    except Exception:
        if waiting:  # an error of the next batch takes nothing from this one
            yield waiting
        raise
    if waiting:
        yield waiting


def to_device(pixels: Tensor, device: str) -> Tensor:
    """Return a tensor of the CPU on a device; a GPU copies it while the CPU goes on."""
    if device == "cpu" or not torch.cuda.is_available():
        return pixels.to(device)
    return pixels.pin_memory().to(device, non_blocking=True)
