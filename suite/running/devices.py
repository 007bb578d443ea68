"""What a run takes of its machine: the device, its arithmetic and its memory."""

import contextlib
import ctypes
import logging
import os
from collections.abc import Callable
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

SHORT_OF_MEMORY = (
    "out of memory",
    "t allocate memory",  # PyTorch on a CPU
    "not enough memory",  # on Windows
    "could not create a primitive",  # oneDNN
    "ALLOC_FAILED",  # cuBLAS and cuDNN
    "unable to find an engine",  # cuDNN
)


def choose_device(no_cuda: bool, precision: str = "tf32") -> str:
    """Return the device of this process, set up: a GPU where there is one, unless it is not wanted.

    Args:
        precision: "fp32" for exact float32 on a GPU; "tf32" and "bf16" let matrix products and
            convolutions of float32 round their factors to 10 bits (TensorFloat-32).

    Raises:
        ValueError: torchrun started more processes on this machine than it has GPUs.
    """
    if no_cuda or not torch.cuda.is_available():
        _keep_freed_memory()
        return "cpu"
    torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
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
    return min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


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

    def __call__(self, function: Callable[[slice], Result], size: int) -> list[Result]:
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
    """Return a batch size that fits the device; on a GPU, `attempt` of so many images shows it."""
    size = batch_size(device)
    if device != "cpu":  # whose memory shows no limit
        parts(attempt, size)
    return min(parts.most or size, size)
