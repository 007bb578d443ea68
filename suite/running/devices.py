"""The device of a run, its arithmetic and its memory."""

import contextlib
import ctypes
import logging
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from suite.running import ranks
from suite.running.precision import DEFAULT

logger = logging.getLogger(__name__)
Item, Work = TypeVar("Item"), TypeVar("Work")

SHORT_OF_MEMORY = (
    "out of memory",
    "t allocate memory",  # PyTorch on a CPU
    "not enough memory",  # on Windows
    "could not create a primitive",  # oneDNN
    "ALLOC_FAILED",  # cuBLAS and cuDNN
    "unable to find an engine",  # cuDNN
)


def choose_device(no_cuda: bool, precision: str = DEFAULT) -> str:
    """Set up this process's device and return its name: a GPU if there is one, unless `no_cuda`.

    Args:
        precision: see `precision.py`; with "fp32", sums on a GPU have a fixed order.

    Raises:
        ValueError: torchrun started more processes on this machine than it has GPUs.
    """
    if no_cuda or not torch.cuda.is_available():
        # glibc would give each layer's memory back to the system, which would zero it anew.
        trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
        with contextlib.suppress(AttributeError, OSError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(trim_threshold, -1)  # never
            mallopt(mmap_threshold, 2**30) or mallopt(mmap_threshold, 2**25)  # older glibcs' most
        return "cpu"
    exact = precision == "fp32"
    torch.backends.cuda.matmul.allow_tf32 = not exact
    torch.backends.cudnn.allow_tf32 = not exact
    if exact:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it as it starts
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # it would only cost time
    number, visible = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    chosen = ranks.gather(f"{platform.node()} {os.environ.get('CUDA_VISIBLE_DEVICES')}")
    if visible == 1 and len(set(chosen)) == len(chosen):
        number = 0  # the launcher shows each process a GPU of its own
    if number >= visible:
        raise ValueError(
            f"--nproc-per-node starts more processes here than there are GPUs, of which {visible} "
            "are visible"
        )
    torch.cuda.set_device(number)
    return f"cuda:{number}"


def is_cpu(device: str | torch.device) -> bool:
    """Return whether a device is the CPU."""
    return torch.device(device).type == "cpu"


def batch_size(device: str, wanted: int | None = None) -> int:
    """Return the wanted batch size, or the one for this kind of device."""
    # It never depends on speed or free memory, so that two runs get the same batches.
    return wanted or (16 if is_cpu(device) else 64)


def decoders(wanted: int | None = None) -> int:
    """Return how many threads decode images: as many as wanted, or one for each of our cores."""
    if wanted is not None:
        return wanted
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return cores // int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the device's memory was not enough."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SHORT_OF_MEMORY)


class Parts:
    """Runs a function on a batch in parts that fit into the device's memory."""

    def __init__(self):
        self.most: int | None = None  # how many images fit; None while nothing has failed

    def __call__(self, function: Callable[[slice], object], size: int) -> list:
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
            # Not in the handler, where the error would keep the failed part's tensors alive.
            self.most = part // 2
            torch.cuda.empty_cache()
            with contextlib.suppress(AttributeError, OSError):
                ctypes.CDLL(None).malloc_trim(0)
            logger.warning("memory is short: %d images at a time now (%s)", self.most, reason)


class Launched:
    """Tensors that a GPU computes while the host goes on; on a CPU they are computed at once.

    Args:
        compute: returns the tensors, on the device, by name.
    """

    def __init__(self, device: str, compute: Callable[[], dict[str, Tensor]]):
        self._on_gpu = not is_cpu(device)
        self._begin = self._moment()
        self._copies = {
            name: values.to("cpu", non_blocking=True) for name, values in compute().items()
        }
        self._end = self._moment()

    def _moment(self) -> "torch.cuda.Event | float":
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def wait(self) -> dict[str, Tensor]:
        """Return the tensors, on the CPU, once they are there."""
        if self._on_gpu:
            self._end.synchronize()
        return self._copies

    @property
    def seconds(self) -> float:
        """How long the device took, after `wait`."""
        if self._on_gpu:
            return self._begin.elapsed_time(self._end) / 1000
        return self._end - self._begin


def ahead(batches: Iterable[Item], launch: Callable[[Item], Work], device: str) -> Iterator[Work]:
    """Yield what `launch` returns for each batch.

    On a GPU that is one batch ahead: while the GPU computes, the next batch is read and launched,
    and then this one is yielded, so that the GPU never waits for the host.
    """
    waiting = []
    try:
        for batch in batches:
            waiting.append(launch(batch))
            if is_cpu(device) or len(waiting) > 1:
                yield waiting.pop(0)
    except Exception:  # in the next batch: this one is whole
        yield from waiting
        raise
    yield from waiting


def to_device(values: Tensor, device: str | torch.device) -> Tensor:
    """Return a tensor on a device; the CPU goes on while a GPU copies it."""
    if values.is_cpu and not is_cpu(device):
        values = values.pin_memory()
    return values.to(device, non_blocking=True)
