"""Checkpoints as training scripts leave them: read without running code, to tensors by name."""

import argparse
import logging
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from suite.networks import weights
from suite.networks.unpickled import GLOBALS, Array

logger = logging.getLogger(__name__)

# Where training scripts put a state dict, the likeliest first.
STATE_DICTS = (
    "state_dict",
    "model",
    "model_state_dict",
    "net",
    "network",
    "module",
    "model_ema",
    "state_dict_ema",
)
WRAPPERS = ("module", "_orig_mod")  # of nn.DataParallel and AveragedModel; of torch.compile
# What robust training saves besides the network.
MEAN, STD = (
    re.compile(rf"(^|\.)(new_|pixel_|image_|_)?({names})_?$") for names in ("mean|mu", "std|sigma")
)
NORMALISER = re.compile(f"{MEAN.pattern}|{STD.pattern}")
BESIDE = re.compile(rf"{NORMALISER.pattern}|^(normali[sz]|preprocess|attacker)\w*(\.|$)")
SHOWN = 20  # of the keys of a file in which no state dict was found


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, by their names in the network.

    Takes .safetensors, TF-Slim's Inceptions of `mmdnn`, and what torch.save wrote: a state dict, or
    one inside: under a name of `STATE_DICTS`, or else the only mapping that holds tensors; the log
    says which. What wrappers leave in keys, as `module.`, is dropped, see `unwrapped`.

    Raises:
        OSError: there is no such file, or it can't be read.
        ValueError: it is no checkpoint, or one that would run code.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}")
    with weights.usable_file(file):
        content = _loaded(file)
    place, tensors = _state_dict(content)
    if not tensors:
        raise ValueError(
            f"{file} has no state dict, neither by itself nor under {', '.join(STATE_DICTS)} or "
            f"just one other key: it is {_outline(content)}"
        )
    if place:
        logger.info("%s: took the weights under %s; it is %s", file, place, _outline(content))
        beside = [key for key in content if BESIDE.search(str(key))]
        if beside:
            logger.warning("%s: %s beside the weights: not used", file, ", ".join(beside))
    tensors = {key: tensor for key, tensor in tensors.items() if not _is_counter(key)}
    return {key: tensors[was] for was, key in unwrapped(tensors).items()}


def unwrapped(keys: Iterable[str]) -> dict[str, str]:
    """Return for each key what it is without the parts that wrappers leave, as `module.`.

    Parts inside go too, as in `features.module.0.weight`, unless two keys would become one.
    """
    leading = {key: key for key in keys}
    prefixes = tuple(f"{wrapper}." for wrapper in WRAPPERS)
    while leading and all(key.startswith(prefixes) for key in leading.values()):
        leading = {was: key.partition(".")[2] for was, key in leading.items()}
    inside = {was: _without_wrappers(key) for was, key in leading.items()}
    return inside if len(set(inside.values())) == len(inside) else leading


def _without_wrappers(key: str) -> str:
    *path, name = key.split(".")
    return ".".join([*(part for part in path if part not in WRAPPERS), name])


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] == "n_averaged"  # of torch.optim.swa_utils.AveragedModel


def _loaded(file: Path) -> object:
    with file.open("rb") as stream:
        start = stream.read(9)
    if start[8:] == b"{":
        return safetensors.torch.load_file(file)
    if start.startswith(b"\x93NUMPY"):
        from suite.networks import slim

        return slim.read_mmdnn(file)
    if not start.startswith((b"PK", b"\x80")):  # an archive, or a pickle of before PyTorch 1.6
        raise ValueError(f"it begins with {start!r}, as no checkpoint does" if start else "empty")
    try:
        with torch.serialization.safe_globals(_data()):
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:  # of a damaged archive: the file itself could be read
        raise ValueError(str(error)) from error


def _data() -> list[type | tuple[Callable, str]]:
    """Return what training scripts save beside weights and what is data, not code.

    These are options, NumPy's scalars and arrays, and paths, those of other systems too.
    """
    numpy = [(stand_in, name) for name, stand_in in GLOBALS.items()]
    paths = [
        (pure, f"{module}.{name}")
        for pure in (pathlib.PurePosixPath, pathlib.PureWindowsPath)
        for name in (pure.__name__, pure.__name__.removeprefix("Pure"))
        for module in ("pathlib", "pathlib._local")  # the latter in Python 3.13
    ]
    return [argparse.Namespace, *numpy, *paths]


def _state_dict(content: object) -> tuple[str, dict[str, Tensor]]:
    """Return where in a checkpoint the weights are, "" for the top, and the tensors by name."""
    if not isinstance(content, Mapping):
        return "", {}
    top = {str(key): _tensor(value) for key, value in content.items() if _is_tensor(value)}
    inside = []
    for key in (*STATE_DICTS, *(key for key in content if key not in STATE_DICTS)):
        nested = content.get(key)
        # Optimizers keep averages of the weights.
        if not isinstance(nested, Mapping) or "param_groups" in nested:
            continue
        place, tensors = _state_dict(nested)
        found = f"{key}.{place}".rstrip("."), tensors
        if tensors and key in STATE_DICTS:
            return found
        # Training scripts' callbacks keep a tensor or two among numbers.
        if place or 2 * len(tensors) > len(nested):
            inside.append(found)
    if top and all(len(top) >= len(tensors) for _, tensors in inside):
        return "", top
    return inside[0] if len(inside) == 1 else ("", {})


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor) or (
        isinstance(value, Array) and value.dtype.text in ("f2", "f4", "f8", "i1", "i2", "i4", "i8")
    )


def _tensor(value: Tensor | Array) -> Tensor:
    if isinstance(value, Tensor):
        return value
    array = value.numbers()
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))


def _outline(content: object) -> str:
    """Return what a checkpoint is, with its keys."""
    if not isinstance(content, Mapping):
        return f"of type {type(content).__name__}"
    keys = ", ".join(str(key) for key in list(content)[:SHOWN]) or "none"
    more = f" and {len(content) - SHOWN} more" if len(content) > SHOWN else ""
    return f"a dict with the keys {keys}{more}"
