"""The processes that torchrun starts for one run, on one machine or several; otherwise just one.

Images are divided among them. Rank 0 prepares and completes what they share.
"""

import atexit
import datetime
import itertools
import os
from collections.abc import Callable, Sequence

import torch.distributed as dist

_store: dist.Store = dist.HashStore()
_counter_numbers = itertools.count()


def join() -> None:
    """Join the other processes, if torchrun started this one."""
    global _store
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        _store, number, size = next(dist.rendezvous("env://"))
        # A rank that dies breaks its connections; slow ones may take as long as they need.
        patience = datetime.timedelta(days=365)
        store = dist.PrefixStore("group", _store)
        dist.init_process_group("gloo", store=store, rank=number, world_size=size, timeout=patience)
        # Its threads abort the process if they outlive the interpreter.
        atexit.register(dist.destroy_process_group)


def rank() -> int:
    """Return the number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(items: Sequence) -> Sequence:
    """Return this process's items: every n-th one of n processes."""
    return items[rank() :: world_size()]


def gather(value: object) -> list:
    """Return the values of all ranks, once all have called this; an OSError if one has ended."""
    if not dist.is_initialized():
        return [value]
    values = [None] * world_size()
    try:
        dist.all_gather_object(values, value)
    except RuntimeError as error:
        raise OSError(f"another process of this run ended, see its message ({error})") from error
    return values


def first(function: Callable[[], object]) -> object:
    """Call a function on rank 0 only, and return on every rank what it returns there."""
    return gather(function() if rank() == 0 else None)[0]


def counter() -> Callable[[int], int]:
    """Return a function that adds a number to a sum over all ranks, and returns the sum."""
    key = f"counter {next(_counter_numbers)}"
    return lambda number: _store.add(key, number)
