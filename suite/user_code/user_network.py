"""A network from a user's file, tried with one image and adapted to the suite."""

import contextlib
import inspect
import logging
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from suite.running import devices
from suite.user_code import user_file
from suite.user_code.input_sizes import Size, input_size
from suite.user_code.process_settings import contained
from watching import logits_of

logger = logging.getLogger(__name__)


def load_user_network(name: str) -> tuple[nn.Module, Size, tuple[Path, ...], tuple[int, ...]]:
    """Return the network path/to/file.py:function, its images' size, and the files it comes from.

    And how many values each of its outputs has that could be the logits as well as the first one.

    The network is what the function returns, or the module of that name in the file, frozen and in
    evaluation mode. Hooks, with which modules keep their names, cast pixels to its dtype and take
    the first of several outputs, or the `logits` of a dict or an object. If gradients do not reach
    the pixels, it is an error to ask for them.

    Raises:
        OSError: there is no such file.
        ValueError: it fails, has no such function, or returns something else than a module; or a
            pass of the module fails, or returns no logits.
    """
    with user_file.loaded(name) as (network, files):
        if not isinstance(network, nn.Module):
            _refuse_arguments(name, network)
            with user_file.blamed(files[0]):
                network = network()
    if not isinstance(network, nn.Module):
        raise ValueError(f"{name} returns {type(network).__name__}, not an nn.Module")
    size = input_size(network, name)
    network, others = _adapted(name, network, size)
    return network, size, tuple(files), others


def _refuse_arguments(name: str, function: Callable) -> None:
    try:
        with contextlib.suppress(ValueError):  # functions written in C may not tell their signature
            inspect.signature(function).bind()
    except TypeError as error:
        raise ValueError(
            f"{name} can't be called without arguments ({error}): write a function into the file "
            "that returns it with them"
        ) from error


def _adapted(name: str, network: nn.Module, size: Size) -> tuple[nn.Module, tuple[int, ...]]:
    if isinstance(getattr(network, "_orig_mod", None), nn.Module):
        logger.info("%s is compiled: runs uncompiled, since hooks would not run", name)
        network = network._orig_mod
    if isinstance(network, torch.jit.ScriptModule):
        network = nn.Sequential(network)  # which takes hooks
    for module in network.modules():
        if isinstance(module, nn.DataParallel):
            module.device_ids = []  # the network runs where the suite puts it
        elif isinstance(module, nn.parallel.DistributedDataParallel):
            module.require_backward_grad_sync = False
    device = next(network.parameters(), torch.empty(0)).device
    if device.type == "meta":
        raise ValueError(f"{name} has no weights: they are on the device meta")
    pixels = torch.rand(1, *size, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        network.eval()
    except Exception as error:
        raise ValueError(f"{name} has no evaluation mode ({user_file.cause(error)})") from error
    with undisturbed(device):
        if any(map(nn.parameter.is_lazy, network.parameters())):
            _try(name, network, pixels)
        network.requires_grad_(False)
        leaf, output = _try(name, network, pixels)
        logits, others = _checked(name, output), tuple(_others(output))
        reason = _why_no_gradient(leaf, logits)
    if reason:
        network.register_forward_pre_hook(partial(_refuse_gradients, name, reason))
    if leaf.dtype != pixels.dtype:
        logger.info("%s: pixels are cast to its %s", name, leaf.dtype)
        network.register_forward_pre_hook(partial(_cast, leaf.dtype))
    if logits is not output:
        taken = f"the {logits.shape[1]} values of its logits are taken"
        if isinstance(output, tuple | list) and not hasattr(output, "logits"):
            taken = f"the first element's {logits.shape[1]} values are taken for the logits"
        more = f", not the {' or '.join(map(str, others))} of another one" if others else ""
        level = logging.WARNING if others else logging.INFO
        logger.log(level, "%s returns %s: %s%s", name, kind_text(output), taken, more)
        network.register_forward_hook(lambda module, args, output: _logits_of(name, output))
    return network, others


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Try a network inside this: later random numbers stay what they are, nothing is compiled."""
    python, numpy = random.getstate(), np.random.get_state()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        stack.enter_context(contained())
        if "torch._dynamo" in sys.modules:  # otherwise nothing is compiled; importing it takes long
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield
    random.setstate(python)
    np.random.set_state(numpy)


def _try(name: str, network: nn.Module, pixels: Tensor) -> tuple[Tensor, object]:
    """Return the pixels in a dtype that the network takes, and its output for them."""
    tensors = [*network.parameters(), *network.buffers()]
    dtypes = [pixels.dtype, *(tensor.dtype for tensor in tensors if tensor.is_floating_point())]
    for dtype in dict.fromkeys(dtypes):
        leaf = pixels.to(dtype, copy=True).requires_grad_()
        try:
            with torch.enable_grad():
                return leaf, network(leaf.clone())  # a clone, since it may change it in place
        except (Exception, SystemExit) as error:
            if devices.out_of_memory(error):
                raise
            cause = error
    hint = "If it takes another size, give it the attribute input_size"
    if isinstance(cause, ImportError):
        hint = "Import it at the beginning of the file, whose folder is on sys.path only then"
    raise ValueError(f"{failure(name, pixels, cause)}. {hint}") from cause


def _checked(name: str, output: object) -> Tensor:
    logits = _logits_of(name, output)
    rows = logits.dim() > 1 and logits.numel() == logits.shape[1] > 0
    if not rows or not logits.is_floating_point():
        raise ValueError(
            f"{name} returns {logits.dtype} numbers of the shape {shape_text(logits)} for an "
            "image: that is not a logit for each class"
        )
    return logits


def _logits_of(name: str, output: object) -> Tensor:
    logits = logits_of(output)
    if logits is None:
        raise ValueError(f"{name} returns {kind_text(output)}, in which nothing is called logits")
    return logits


def _others(output: object) -> Iterator[int]:
    """Yield how many values elements of a tuple have that could be logits as the first one is."""
    if isinstance(output, tuple | list) and getattr(output, "logits", None) is None:
        yield from _others(output[0])
        for other in output[1:]:
            if isinstance(other, Tensor) and other.dim() == 2 and other.is_floating_point():
                yield other.shape[1]


def kind_text(output: object) -> str:
    """Return in words what a user's function returns, such as a tuple of 2."""
    kind = type(output).__name__
    if isinstance(output, Tensor):
        return f"a tensor of {shape_text(output)}"
    if isinstance(output, Mapping):
        return f"a {kind} of {', '.join(map(str, output)) or 'nothing'}"
    return f"a {kind} of {len(output)}" if isinstance(output, tuple | list) else f"a {kind}"


def _why_no_gradient(leaf: Tensor, logits: Tensor) -> str:
    """Return why gradients of the logits do not reach the pixels; empty if they do."""
    if not logits.requires_grad:
        return "its forward runs without gradients, as under torch.no_grad or inference_mode"
    try:
        logits.sum().backward()
    except Exception as error:
        if devices.out_of_memory(error):
            raise
        return user_file.cause(error)
    return "" if leaf.grad is not None else "its forward cuts them off, as by detach"


def _refuse_gradients(name: str, reason: str, module: nn.Module, args: tuple[Tensor]) -> None:
    if args[0].requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name}: gradients do not reach the pixels ({reason}): it can be a target, but not a "
            "source"
        )


def _cast(dtype: torch.dtype, module: nn.Module, args: tuple[Tensor]) -> Tensor:
    (pixels,) = args
    # Autocast casts by itself, but does nothing for float64.
    casts = torch.is_autocast_enabled(pixels.device.type) and dtype != torch.float64
    return pixels if casts else pixels.to(dtype)


def failure(name: str, pixels: Tensor, error: Exception) -> ValueError:
    """Return the error for a pass of a user's network that failed."""
    cause = user_file.cause(error)
    return ValueError(f"{name}: a pass of {shape_text(pixels)} pixels fails ({cause})")


def shape_text(tensor: Tensor | np.ndarray) -> str:
    """Return a tensor's shape as people write it, such as 2x3x32x32."""
    return "x".join(map(str, tensor.shape)) or "a number"
