"""Reading checkpoints as training scripts leave them, without running code from them."""

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


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, by their names in the network.

    The file is a .safetensors, an Inception of TF-Slim as MMdnn saved it, or what torch.save wrote:
    a state dict, or a dict that has one under a name of `STATE_DICTS`, or else as the only mapping
    that holds tensors; the log says which. See `unwrapped` for the names.

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
    # AveragedModel counts its updates.
    keys = [key for key in tensors if key.rpartition(".")[2] != "n_averaged"]
    return {bare: tensors[key] for bare, key in unwrapped(keys).items()}


def unwrapped(keys: Iterable[str]) -> dict[str, str]:
    """Return keys by their names without the parts that wrappers add, such as `module.`.

    Parts inside go too, as in `features.module.0.weight`. Keys stay as they are where two of them
    would become one.
    """
    keys = list(keys)
    wrapper = rf"(^|(?<=\.))({'|'.join(WRAPPERS)})\."
    bare = {re.sub(wrapper, "", key): key for key in keys}
    return bare if len(bare) == len(keys) else {key: key for key in keys}


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
    """Return the harmless types that training scripts save beside weights.

    These are options, NumPy's scalars and arrays, and paths, also those of other systems.
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
    tensors = {str(key): _tensor(value) for key, value in content.items()}
    top = {key: tensor for key, tensor in tensors.items() if tensor is not None}
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


def _tensor(value: object) -> Tensor | None:
    """Return a tensor, or a NumPy array as one; None if the value is neither."""
    if isinstance(value, Tensor):
        return value
    array = value.numbers() if isinstance(value, Array) else None
    if array is None or array.dtype.kind not in "fi":
        return None
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))


def _outline(content: object) -> str:
    """Return what a checkpoint is, with its keys."""
    if not isinstance(content, Mapping):
        return f"of type {type(content).__name__}"
    return f"a dict with the keys {weights.first_names(content) or 'none'}"
