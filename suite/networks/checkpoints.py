"""Checkpoints as training scripts leave them: reading them, and fitting them to a network.

No code from them runs. A network's keys may stand under other prefixes in them.
"""

import argparse
import dataclasses
import itertools
import logging
import pathlib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from suite.networks import weights
from suite.networks.libraries import NetworkSpec
from suite.networks.unpickled import GLOBALS, Array

logger = logging.getLogger(__name__)

# Where training scripts put a state dict, the likeliest first.
STATE_DICTS = (
    "state_dict", "model", "model_state_dict", "net", "network", "module", "model_ema",
    "state_dict_ema",
)  # fmt: skip
# Where they put their options; "" is the top.
OPTION_PLACES = ("args", "config", "cfg", "hparams", "hyper_parameters", "opt", "")
WRAPPERS = ("module", "_orig_mod")  # of nn.DataParallel and AveragedModel; of torch.compile
# What robust training saves besides the network.
MEAN, STD = (
    re.compile(rf"(^|\.)(new_|pixel_|image_|_)?({names})_?$") for names in ("mean|mu", "std|sigma")
)
NORMALISER = re.compile(f"{MEAN.pattern}|{STD.pattern}")
BESIDE = re.compile(rf"{NORMALISER.pattern}|^(normali[sz]|preprocess|attacker)\w*(\.|$)")
AUXILIARY = re.compile(r"(^|\.)(AuxLogits|aux[12])\.")  # heads that only training uses
# Harmless types that training scripts save beside weights: options, NumPy's scalars and arrays,
# and paths, also those of other systems. pathlib._local is Python 3.13's.
HARMLESS = [argparse.Namespace, *((stand_in, name) for name, stand_in in GLOBALS.items())] + [
    (getattr(pathlib, f"Pure{kind}Path"), f"{module}.{pure}{kind}Path")
    for kind in ("Posix", "Windows")
    for pure in ("Pure", "")
    for module in ("pathlib", "pathlib._local")
]


def load_checkpoint(spec: NetworkSpec, file: Path) -> tuple[nn.Module, NetworkSpec]:
    """Return a network with the weights of a checkpoint, and what it takes.

    The number of classes is read off the checkpoint. See `read_state_dict` for files, and
    `_with_normaliser` for a mean and a standard deviation in them. The auxiliary heads of a named
    Inception stay random, in evaluation they do not run.

    Raises:
        OSError, ValueError: the file is not usable; names missing, unexpected and misshapen keys.
    """
    found, options = _weights_and_options(file)
    with weights.usable_file(None):
        network = spec.build(None, 1000)
        if any("_packed_params" in key for key in network.state_dict()):
            raise ValueError(
                f"{file}: a quantised network takes no --checkpoint, since its weights are no "
                "tensors; load them in the function that returns it"
            )
        expected = _state_tensors(network, spec)
        tensors, beside = _fitted(expected, found, file)
        tensors = {k: v for k, v in tensors.items() if k in expected or not AUXILIARY.search(k)}
        classes = _number_of_classes(expected, tensors)
        if classes != 1000:
            logger.info("%s: %d classes", file, classes)
            network = spec.build(None, classes)
    if wrong := weights.key_differences(_state_tensors(network, spec), tensors):
        raise ValueError(
            f"{file} does not fit this network: {'; '.join(wrong)}. Is --arch the network that it "
            "was trained as? Libraries name layers differently: resnet50 is that of "
            "pretrainedmodels, torchvision/resnet50 and timm/resnet50 are the others'."
        )
    with weights.usable_file(file):
        network.load_state_dict(tensors, strict=False)
    return network, _with_size(
        _with_normaliser(spec, beside, options, file), options, network, file
    )


def _state_tensors(network: nn.Module, spec: NetworkSpec) -> dict[str, Tensor]:
    return {
        key: value
        for key, value in network.state_dict().items()
        if isinstance(value, Tensor) and (spec.code or not AUXILIARY.search(key))
    }


def _number_of_classes(expected: dict[str, Tensor], found: dict[str, Tensor]) -> int:
    """Return how many rows the classifiers have, where all agree on another number than 1000."""
    numbers = {
        len(found[key])
        for key, tensor in expected.items()
        if key in found and found[key].dim() and tensor.shape == (1000, *found[key].shape[1:])
    }
    return numbers.pop() if len(numbers) == 1 else 1000


def _fitted(
    expected: dict[str, Tensor], found: dict[str, Tensor], file: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a checkpoint's tensors by a network's keys, and those that are not the network's.

    On both sides the keys may stand under a prefix such as `model.` or `1.`. The one under which a
    checkpoint has all keys of the network is taken off. Tensors under others, as those of a
    normaliser or an attacker, are not the network's. Its own normaliser stays as it is where the
    checkpoint has none.
    """
    keys = unwrapped(expected)
    paths = dict.fromkeys(path for key in found for path in _paths(key))
    prefixes = sorted(paths, key=_unlikeliness)
    for outer in _outer_prefixes(keys):
        inner = {bare.removeprefix(outer): keys[bare] for bare in keys if bare.startswith(outer)}
        needed = [bare for bare in inner if not weights.OPTIONAL.search(bare)]
        whole = [prefix for prefix in prefixes if all(prefix + bare in found for bare in needed)]
        if not whole:
            continue
        prefix, *copies = whole
        for copy in copies:
            tied = _unlikeliness(copy) == _unlikeliness(prefix)
            if tied and not all(torch.equal(found[prefix + k], found[copy + k]) for k in needed):
                raise ValueError(
                    f"{file} has different weights of this network under {prefix.strip('.')} and "
                    f"{copy.strip('.')}: save one of them alone"
                )
        if prefix:
            logger.info("%s: took the keys under %s", file, prefix.strip("."))
        tensors = {key: expected[key] for bare, key in keys.items() if not bare.startswith(outer)}
        beside = {}
        for key, tensor in found.items():
            bare = key.removeprefix(prefix)
            other = BESIDE.search(bare) or key.startswith(tuple(copies))
            if key.startswith(prefix) and (bare in inner or not other):
                tensors[inner.get(bare, bare)] = tensor
            else:
                beside[key] = tensor
        return tensors, beside
    # The likeliest prefix is taken off, so that the error names no keys but those that are wrong.
    counts = {prefix: sum(prefix + bare in found for bare in keys) for prefix in prefixes}
    prefix = max(prefixes, key=counts.get)
    prefix = prefix if 2 * counts[prefix] > len(keys) else ""
    bare = {key.removeprefix(prefix): tensor for key, tensor in found.items()}
    return {keys.get(key, key): tensor for key, tensor in bare.items()}, {}


def _outer_prefixes(keys: Iterable[str]) -> Iterator[str]:
    """Yield the prefixes under which a network, with a normaliser in front, has its own keys."""
    for path in sorted({path for key in keys for path in _paths(key)}, key=len):
        inside = [key.removeprefix(path) for key in keys if key.startswith(path)]
        outside = [key for key in keys if not key.startswith(path)]
        # A network's only layer is no wrapper, unless it is called as one.
        usual = (name.isdigit() or name in STATE_DICTS for name in path.split(".")[:-1])
        layers = any("." in key for key in inside) or all(usual)
        if layers and all(map(NORMALISER.search, outside)):
            yield path


def _paths(key: str) -> Iterator[str]:
    """Return what a key can begin with: of `1.conv.weight` nothing, `1.` and `1.conv.`."""
    return itertools.accumulate((f"{part}." for part in key.split(".")[:-1]), initial="")


def _unlikeliness(prefix: str) -> tuple[int, int]:
    """Return what prefixes are sorted by: the shortest first, and among these the usual ones."""
    usual, name = STATE_DICTS, prefix.partition(".")[0]
    return prefix.count("."), usual.index(name) if name in usual else len(usual)


def _with_size(
    spec: NetworkSpec, options: dict[str, Tensor], network: nn.Module, file: Path
) -> NetworkSpec:
    """Return a network with the image size that it was trained at, unless it fails there."""
    sizes = [tuple(map(int, each)) for key, each in options.items() if key.endswith("_size")]
    size = next((size[1:] for size in sizes), spec.input_size[1:])
    if spec.code or tuple(size) == tuple(spec.input_size[1:]):
        return spec
    text = f"{size[0]} x {size[1]} pixels"
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, *size))
    except Exception:  # a transformer has positions for one size
        logger.warning("%s: it was trained on %s, which the network does not take", file, text)
        return spec
    logger.warning("%s: images get the size that it was trained on, %s", file, text)
    return dataclasses.replace(spec, input_size=(3, *size))


def _with_normaliser(
    spec: NetworkSpec, beside: dict[str, Tensor], options: dict[str, Tensor], file: Path
) -> NetworkSpec:
    """Return a network with the mean and the standard deviation that a checkpoint brings along.

    They are among its tensors or, as timm's training script saves them, among its options.

    A warning names the other tensors that the checkpoint holds besides the network. It also names
    the mean and the standard deviation where they are not used: for a network that takes other
    pixels than RGB in [0, 1], or the user's own, which may normalise by itself.
    """
    given = {key: each for key, each in options.items() if NORMALISER.search(key)}
    if len(given) == 1:  # timm takes the other one from the network
        lacking = "std" if MEAN.search(next(iter(given))) else "mean"
        given[lacking] = torch.tensor(getattr(spec, lacking))
    beside = beside | given
    mean, std = (
        {tuple(tensor.flatten().tolist()) for key, tensor in beside.items() if name.search(key)}
        for name in (MEAN, STD)
    )
    if len(mean) == len(std) == 1 and not spec.code and spec.scale == 1 and not spec.bgr:
        (mean,), (std,) = mean, std
        if len(mean) == len(std) == 3 and 0 <= min(mean) <= max(mean) <= 1 and min(std) > 0:
            difference = torch.tensor([mean, std]) - torch.tensor([spec.mean, spec.std])
            if difference.abs().max() > 1e-3:
                values = (" ".join(f"{value:.4g}" for value in each) for each in (mean, std))
                logger.warning(
                    "%s: pixels get its mean %s and standard deviation %s", file, *values
                )
                spec = dataclasses.replace(spec, mean=mean, std=std)
            beside = {key: beside[key] for key in beside if not NORMALISER.search(key)}
    if beside:
        keys = (key if NORMALISER.search(key) else key.partition(".")[0] for key in beside)
        groups = Counter(keys)
        listed = ", ".join(f"{name} ({number} tensors)" for name, number in groups.items())
        logger.warning("%s: beside the network it holds %s: not used", file, listed)
    return spec


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, by their names in the network.

    The file is a .safetensors, an Inception of TF-Slim as MMdnn saved it, or what torch.save wrote:
    a state dict, or a dict that has one under a name of `STATE_DICTS`, or else as the only mapping
    that holds tensors; the log says which. See `unwrapped` for the names.

    Raises:
        OSError: there is no such file, or it can't be read.
        ValueError: it is no checkpoint, or one that would run code.
    """
    return _weights_and_options(file)[0]


def _weights_and_options(file: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of a checkpoint, and what its options say of images."""
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
    options = {}
    if place:
        logger.info("%s: took the weights under %s; it is %s", file, place, _outline(content))
        options = _image_options(content)
        if beside := [key for key in content if key not in options and BESIDE.search(str(key))]:
            logger.warning("%s: %s beside the weights: not used", file, ", ".join(beside))
    # AveragedModel counts its updates.
    keys = [key for key in tensors if key.rpartition(".")[2] != "n_averaged"]
    return {bare: tensors[key] for bare, key in unwrapped(keys).items()}, options


def _image_options(content: Mapping) -> dict[str, Tensor]:
    """Return three numbers each of what training options say of images, as `args.mean`."""
    for place in OPTION_PLACES:
        options = content.get(place) if place else content
        options = vars(options) if isinstance(options, argparse.Namespace) else options
        if isinstance(options, Mapping):
            names = ("mean", "std", "input_size", "img_size")  # those of timm's training script
            given = {f"{place}.{name}".strip("."): _three(options.get(name)) for name in names}
            if any(numbers is not None for numbers in given.values()):
                return {name: numbers for name, numbers in given.items() if numbers is not None}
    return {}


def _three(value: object) -> Tensor | None:
    """Return one number or three, however they were saved, as three; None of anything else."""
    parts = value if isinstance(value, list | tuple) else [value]
    try:
        parts = [
            torch.as_tensor(part if isinstance(part, float | int) else _tensor(part)).flatten()
            for part in parts
        ]
        return torch.cat(parts).float().expand(3)
    except (RuntimeError, TypeError):
        return None


def unwrapped(keys: Collection[str]) -> dict[str, str]:
    """Return keys by their names without the parts that wrappers add, such as `module.`.

    This includes parts in the middle, as in `features.module.0.weight`. Keys stay as they are where
    two of them would become one.
    """
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
        with torch.serialization.safe_globals(HARMLESS):
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:  # of a damaged archive: the file itself could be read
        raise ValueError(str(error)) from error


def _state_dict(content: object) -> tuple[str, dict[str, Tensor]]:
    """Return where in a checkpoint the weights are, "" for the top, and the tensors by name."""
    if not isinstance(content, Mapping):
        return "", {}
    top = {str(key): t for key, value in content.items() if (t := _tensor(value)) is not None}
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
    return None if array is None else torch.from_numpy(array)


def _outline(content: object) -> str:
    """Return what a checkpoint is, with its keys."""
    if not isinstance(content, Mapping):
        return f"of type {type(content).__name__}"
    return f"a dict with the keys {weights.first_names(content) or 'none'}"
