"""The size of the images that a module takes, from its attribute `input_size`."""

import contextlib
import logging
import operator
from collections.abc import Iterator

import torch
from torch import nn

logger = logging.getLogger(__name__)

Size = tuple[int, int, int]
ASSUMED = (3, 224, 224)


def input_size(network: nn.Module, name: str = "") -> Size:
    """Return channels, height and width from a module's `input_size`; 3 x 224 x 224 if it has none.

    Wrappers are looked through: nn.DataParallel, torch.compile and the like, and modules of which
    one part has all parameters, as with a normaliser in front of a network. Without an attribute
    the images count with which a network was traced. The log says what was found there, or that
    nothing was.

    Args:
        name: the network's, for the log and errors.

    Raises:
        ValueError: it is neither a size, nor height and width, nor channels, height and width.
    """
    name = name or type(network).__name__
    modules = list(_unwrapped_modules(network))
    for module in modules:
        if _attribute(module) is not None:
            if module is not network:
                logger.info("%s: takes the input_size of its %s", name, type(module).__name__)
            return _size(name, _attribute(module))
    for size in filter(None, map(_traced_size, modules)):
        logger.info("%s: takes images of the size that it was traced with, %dx%dx%d", name, *size)
        return size
    logger.info("%s has no attribute input_size: %dx%dx%d is assumed", name, *ASSUMED)
    return ASSUMED


def _attribute(module: nn.Module) -> object:
    # That of a recurrent module is a number of features.
    recurrent = isinstance(module, nn.RNNBase | nn.RNNCellBase)
    return None if recurrent else getattr(module, "input_size", None)


def _unwrapped_modules(network: nn.Module | None) -> Iterator[nn.Module]:
    """Yield a network and what its wrappers hold, down to the module that adds layers."""
    while network is not None:
        yield network
        network = _wrapped(network)


def _wrapped(module: nn.Module) -> nn.Module | None:
    for name in ("_orig_mod", "module"):
        inner = getattr(module, name, None)
        if isinstance(inner, nn.Module):
            return inner
    parts = [part for part in module.children() if any(True for _ in part.parameters())]
    adds = any(True for _ in module.parameters(recurse=False))
    return parts[0] if len(parts) == 1 and not adds else None


def _traced_size(module: nn.Module) -> Size | None:
    """Return the shape of the image with which torch.jit.trace or torch.export ran a module."""
    shapes = []
    if isinstance(module, torch.jit.ScriptModule):
        with contextlib.suppress(RuntimeError):  # it has no forward
            kinds = [value.type() for value in module.graph.inputs()][1:2]
            shapes = [kind.sizes() for kind in kinds if isinstance(kind, torch.TensorType)]
    elif isinstance(module, torch.fx.GraphModule):
        notes = [node.meta for node in module.graph.nodes if node.op == "placeholder"]
        values = [note.get("val", note.get("tensor_meta")) for note in notes]
        shapes = [value.shape for value in values if value is not None]
    size = list(shapes[0])[1:] if shapes and shapes[0] else []
    known = len(size) == 3 and all(isinstance(length, int) for length in size)
    return tuple(size) if known and size[0] == 3 else None


def _size(name: str, size: object) -> Size:
    try:
        sizes = tuple(map(operator.index, size if isinstance(size, tuple | list) else (size, size)))
    except TypeError:
        sizes = ()
    sizes = (3, *sizes) if len(sizes) == 2 else sizes
    if len(sizes) != 3 or sizes[0] != 3 or min(sizes) < 1:
        raise ValueError(f"{name}: input_size can't be {size!r}: 224, (224, 224) or (3, 224, 224)")
    return sizes
