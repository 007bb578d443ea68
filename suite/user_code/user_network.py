"""A user's own network, tried with one image: what it takes, what it returns, what it can't do."""

import contextlib
import inspect
import logging
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from suite.running import devices
from suite.user_code import user_file
from suite.user_code.input_sizes import Size
from suite.user_code.user_file import message_line

logger = logging.getLogger(__name__)


class Scripted(nn.Module):
    """A network of torch.jit, which takes no hooks, in a module that does."""

    def __init__(self, network: torch.jit.ScriptModule):
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> object:
        return self.network(pixels)


def adapted(name: str, network: nn.Module, input_size: Size) -> nn.Module:
    """Return a user's network, frozen and in evaluation mode, from float32 pixels to logits.

    One that is so already stays as it is. Others get hooks, with which their modules keep their
    names: pixels are cast to the network's dtype; of several outputs the first one is taken, of a
    dict or an object what it calls logits. If gradients do not reach the pixels, it is an error to
    ask for them.

    Raises:
        ValueError: a pass fails, or returns no logits; names the network and the cause.
    """
    if isinstance(getattr(network, "_orig_mod", None), nn.Module):
        logger.info("%s is compiled: runs as it was before, since hooks would not run", name)
        network = network._orig_mod
    if isinstance(network, torch.jit.ScriptModule):
        network = Scripted(network)
    for module in network.modules():
        if isinstance(module, nn.DataParallel):
            module.device_ids = []  # the network runs where the suite puts it
        elif isinstance(module, nn.parallel.DistributedDataParallel):
            module.require_backward_grad_sync = False
    device = next(network.parameters(), torch.empty(0)).device
    if device.type == "meta":
        raise ValueError(f"{name} has no weights: they are on the device meta")
    pixels = torch.rand(1, *input_size, generator=torch.Generator().manual_seed(0)).to(device)
    try:
        network.eval()
    except Exception as error:
        raise ValueError(f"{name} has no evaluation mode ({_cause(error)})") from error
    with undisturbed(device):
        if any(map(nn.parameter.is_lazy, network.parameters())):
            _pass(name, network, pixels)
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        leaf, output = _pass(name, network, pixels)
        logits = _checked(name, output)
        reason = _why_no_gradient(leaf, logits)
    if reason:
        network.register_forward_pre_hook(_refuse_gradients(name, reason))
    if leaf.dtype != pixels.dtype:
        logger.info("%s: pixels are cast to its %s", name, leaf.dtype)
        network.register_forward_pre_hook(_cast(leaf.dtype))
    if logits is not output:
        logger.info("%s returns %s, of which its logits are taken", name, _kind(output))
        network.register_forward_hook(lambda module, args, output: logits_of(output))
    return network


@contextlib.contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """While a network is tried: later random numbers stay what they are, nothing is compiled."""
    python, numpy = random.getstate(), np.random.get_state()
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        if "torch._dynamo" in sys.modules:  # otherwise nothing is, and to import it takes long
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield
    random.setstate(python)
    np.random.set_state(numpy)


def _pass(name: str, network: nn.Module, pixels: Tensor) -> tuple[Tensor, object]:
    """Return the pixels, in a dtype that the network takes, and what it makes of them."""
    tensors = [*network.parameters(), *network.buffers()]
    for dtype in dict.fromkeys(
        [pixels.dtype, *(t.dtype for t in tensors if t.is_floating_point())]
    ):
        leaf = pixels.to(dtype, copy=True).requires_grad_()
        try:
            with torch.enable_grad():
                return leaf, network(leaf.clone())  # which it may change in place
        except Exception as error:
            if devices.out_of_memory(error):
                raise
            cause = error
    hint = "If it takes another size, give it the attribute input_size"
    if isinstance(cause, ImportError):
        hint = (
            "Import it at the beginning of the file: its folder is on sys.path only while it is run"
        )
    raise ValueError(f"{failure(name, pixels, cause)}. {hint}") from cause


def _checked(name: str, output: object) -> Tensor:
    try:
        logits = logits_of(output)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error
    rows = logits.dim() > 1 and len(logits) == 1 and logits.numel() == logits.shape[1] > 0
    if not rows or not logits.is_floating_point():
        raise ValueError(
            f"{name} returns {logits.dtype} numbers of the shape {_shape(logits)} for an image: "
            "that is not a logit for each class"
        )
    return logits


def logits_of(output: object) -> Tensor:
    """Return the logits among what a network returns.

    Raises:
        ValueError: there are none.
    """
    while not isinstance(output, Tensor):
        if getattr(output, "logits", None) is not None:
            output = output.logits
        elif isinstance(output, Mapping) and "logits" in output:
            output = output["logits"]
        elif isinstance(output, tuple | list) and output:
            output = output[0]
        else:
            raise ValueError(f"returns {_kind(output)}, in which nothing is called logits")
    return output


def _kind(output: object) -> str:
    kind = type(output).__name__
    if isinstance(output, Mapping):
        return f"a {kind} of {', '.join(map(str, output)) or 'nothing'}"
    return f"a {kind} of {len(output)}" if isinstance(output, tuple | list) else f"a {kind}"


def _why_no_gradient(leaf: Tensor, logits: Tensor) -> str:
    """Return why gradients of logits do not reach the pixels; empty if they do."""
    if not logits.requires_grad:
        return "its forward runs without gradients, as under torch.no_grad or inference_mode"
    try:
        logits.sum().backward()
    except Exception as error:
        if devices.out_of_memory(error):
            raise
        return _cause(error)
    return "" if leaf.grad is not None else "its forward cuts them off, as by detach"


def _refuse_gradients(name: str, reason: str) -> Callable:
    def hook(module: nn.Module, args: tuple) -> None:
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in args):
            raise ValueError(
                f"{name}: gradients do not reach the pixels ({reason}): it can be a target, but "
                "not a source"
            )

    return hook


def _cast(dtype: torch.dtype) -> Callable:
    def hook(module: nn.Module, args: tuple) -> tuple:
        # Autocast casts by itself, but does nothing for float64.
        by_itself = torch.is_autocast_enabled(args[0].device.type) and dtype != torch.float64
        return args if by_itself else (args[0].to(dtype),)

    return hook


def failure(name: str, pixels: Tensor, error: Exception) -> ValueError:
    """Return the error for a pass of a user's network that failed."""
    return ValueError(f"{name}: a pass of {_shape(pixels)} pixels fails ({_cause(error)})")


def _cause(error: Exception) -> str:
    text = message_line(error)
    if "TorchScript interpreter" in text:  # before the cause there is a traceback
        text = text.rpartition("Error: ")[2]
    return f"{type(error).__name__}: {text}"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def call_function(name: str) -> tuple[nn.Module, tuple[Path, ...]]:
    """Return the network that path/to/file.py:function stands for, and the files it comes from.

    That is what the function returns, or the module that the file has under that name.

    Raises:
        OSError: there is no such file.
        ValueError: it fails, has no such function, or returns something else than a module.
    """

    def network(made: object) -> nn.Module:
        if not isinstance(made, nn.Module):
            _refuse_arguments(name, made)
            with user_file.blamed(user_file.python_file(name)):
                made = made()
        if not isinstance(made, nn.Module):
            raise ValueError(f"{name} returns {type(made).__name__}, not an nn.Module")
        return made

    return user_file.load_function(name, network)


def _refuse_arguments(name: str, function: object) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # it does not tell
        return
    try:
        signature.bind()
    except TypeError as error:
        raise ValueError(
            f"{name} can't be called without arguments ({error}): write a function into the file "
            "that returns it with them"
        ) from error
