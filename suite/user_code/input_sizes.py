"""The size of the images that a module takes, from its attribute `input_size`."""

import contextlib
import logging
import operator

import torch
from torch import nn

logger = logging.getLogger(__name__)

Size = tuple[int, int, int]
ASSUMED = (3, 224, 224)


def input_size(network: nn.Module, name: str = "") -> Size:
    """Return channels, height and width from a module's `input_size`; 3 x 224 x 224 if it has none.

    The attribute may be that of a module inside a wrapper, such as nn.DataParallel, torch.compile,
    or a sequence of a normaliser and the network. Without it, the images with which a network was
    traced have its size. What was found inside, or assumed, is logged under the network's `name`.

    Raises:
        ValueError: it is neither a size, nor height and width, nor channels, height and width.
    """
    name = name or type(network).__name__
    modules = [network]
    while (inner := _wrapped(modules[-1])) is not None:
        modules.append(inner)
    for module in modules:
        size = getattr(module, "input_size", None)
        # That of a recurrent module is a number of features.
        if size is not None and not isinstance(module, nn.RNNBase | nn.RNNCellBase):
            if module is not network:
                logger.info("%s: takes the input_size of its %s", name, type(module).__name__)
            return _size(name, size)
    for size in filter(None, map(_traced_size, modules)):
        logger.info("%s: takes images of the size that it was traced with, %dx%dx%d", name, *size)
        return size
    logger.info("%s has no attribute input_size: %dx%dx%d is assumed", name, *ASSUMED)
    return ASSUMED


def _wrapped(module: nn.Module) -> nn.Module | None:
    """Return the part of a module that is alone or has all parameters; None if there is none."""
    parts = list(module.children())
    if len(parts) > 1:
        parts = [part for part in parts if list(part.parameters())]
    own_parameters = list(module.parameters(recurse=False))
    return parts[0] if len(parts) == 1 and not own_parameters else None


def _traced_size(module: nn.Module) -> Size | None:
    """Return the shape of the image with which torch.jit.trace or torch.export ran a module."""
    shapes = []
    if isinstance(module, torch.jit.ScriptModule):
        with contextlib.suppress(RuntimeError):  # it has no forward
            kinds = [value.type() for value in module.graph.inputs()]
            shapes = [kind.sizes() for kind in kinds if isinstance(kind, torch.TensorType)]
    elif isinstance(module, torch.fx.GraphModule):
        notes = [node.meta for node in module.graph.nodes if node.op == "placeholder"]
        values = [note.get("val", note.get("tensor_meta")) for note in notes]
        shapes = [value.shape for value in values if value is not None]
    match shapes:
        case [[_, 3, int(height), int(width)], *_]:
            return 3, height, width
    return None


def _size(name: str, size: object) -> Size:
    try:
        sizes = tuple(map(operator.index, size if isinstance(size, tuple | list) else (size, size)))
    except TypeError:
        sizes = ()
    sizes = (3, *sizes) if len(sizes) == 2 else sizes
    if len(sizes) != 3 or sizes[0] != 3 or min(sizes) < 1:
        raise ValueError(f"{name}: input_size can't be {size!r}: 224, (224, 224) or (3, 224, 224)")
    return sizes
