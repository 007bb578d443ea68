"""Settings of the whole process, which a user's code may change for itself alone."""

import contextlib
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import backends

ATTRIBUTES = [
    (sys, ("argv", "excepthook", "stderr")),
    (warnings, ("showwarning",)),
    (ImageFile, ("LOAD_TRUNCATED_IMAGES",)),
    (Image, ("MAX_IMAGE_PIXELS",)),
    (backends.cudnn, ("enabled", "benchmark", "deterministic", "allow_tf32")),
    (backends.cuda.matmul, ("allow_tf32",)),
    (torch.utils.deterministic, ("fill_uninitialized_memory",)),
]
if hasattr(backends, "fp32_precision"):  # since torch 2.9
    on_gpu = backends.cudnn, backends.cuda.matmul, backends.cudnn.conv
    on_cpu = backends.mkldnn, backends.mkldnn.matmul, backends.mkldnn.conv
    ATTRIBUTES += [(place, ("fp32_precision",)) for place in (backends, *on_gpu, *on_cpu)]


def _loggers() -> dict[logging.Logger, tuple]:
    # With those that are only the parents of others so far, as suite.networks may be.
    loggers = [logging.root, *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    return {each: (each.level, each.disabled, each.propagate, *each.handlers) for each in loggers}


def _set_loggers(loggers: dict[logging.Logger, tuple]) -> None:
    for logger, (level, logger.disabled, logger.propagate, *handlers) in loggers.items():
        logger.setLevel(level)
        logger.handlers[:] = handlers


def _set_filters(filters: list[tuple]) -> None:
    warnings.resetwarnings()  # so that what was filtered before is filtered anew
    warnings.filters[:] = filters


def _set_environment(variables: dict[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def _set_signals(handlers: dict) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


# Each as a function that returns it and one that sets it.
SETTINGS = [
    (os.getcwd, os.chdir),
    (lambda: dict(os.environ), _set_environment),
    (lambda: {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}, _set_signals),
    (sys.getrecursionlimit, sys.setrecursionlimit),
    (lambda: logging.root.manager.disable, logging.disable),
    (_loggers, _set_loggers),
    (lambda: warnings.filters[:], _set_filters),
    (np.geterr, lambda errors: np.seterr(**errors)),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, torch.set_default_device),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
]
SETTINGS += [
    (partial(getattr, place, name), partial(setattr, place, name))
    for place, names in ATTRIBUTES
    for name in names
]

_inside = False


@contextlib.contextmanager
def contained() -> Iterator[None]:
    """Run a user's code inside this: settings of the process are its own, afterwards as before.

    These are the working directory, environment variables, signals, logging, warnings, NumPy's
    errors, and torch's precision, determinism and defaults. What is printed goes to standard error.
    """
    global _inside
    if _inside:  # as the network that a user's attack calls
        yield
        return
    before = [_value(get) for get, _ in SETTINGS]
    _inside = True
    try:
        with printing_aside():
            yield
    finally:
        _inside = False
        for (get, restore), value in zip(SETTINGS, before, strict=True):
            if value is not None and _value(get) != value:
                restore(value)


def _value(get: Callable[[], object]) -> object:
    try:
        return get()
    # The working directory was deleted, or torch's former and new names of TF32 disagree.
    except (OSError, RuntimeError):
        return None


@contextlib.contextmanager
def printing_aside() -> Iterator[None]:
    """Send to standard error what is printed inside this, by Python or by a program it starts."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        with contextlib.suppress(OSError):  # one of them is closed
            kept = os.dup(1)
            stack.callback(os.close, kept)
            os.dup2(2, 1)
            stack.callback(os.dup2, kept, 1)
        yield
