"""Fitting a checkpoint's tensors to a network whose keys may stand under other prefixes."""

import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from torch import Tensor, nn

from suite.networks import checkpoints, weights
from suite.networks.libraries import NetworkSpec

logger = logging.getLogger(__name__)

KEYS_SHOWN = 10  # of each kind of keys that are wrong
# Counters that evaluation does not use; checkpoints from before PyTorch 0.4.1 lack the first one.
OPTIONAL = re.compile(r"(^|\.)(num_batches_tracked|n_averaged)$")


def load_checkpoint(
    build: Callable[[int], nn.Module], file: Path
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return a network with the weights of a checkpoint, and the checkpoint's other tensors.

    Args:
        build: makes the network with random weights and a number of classes, which is read off the
            checkpoint.
        file: see `checkpoints.read_state_dict`.

    Raises:
        OSError, ValueError: the file is not usable; names missing, unexpected and misshapen keys.
    """
    found = checkpoints.read_state_dict(file)
    with weights.usable_file(None):
        network = build(1000)
        if any("_packed_params" in key for key in network.state_dict()):
            raise ValueError(
                f"{file}: a quantised network takes no --checkpoint, since its weights are no "
                "tensors; load them in the function that returns it"
            )
        tensors, beside = fitted(_state_tensors(network), found, file)
        classes = _number_of_classes(_state_tensors(network), tensors)
        if classes != 1000:
            logger.info("%s: %d classes", file, classes)
            network = build(classes)
    wrong = _key_differences(_state_tensors(network), tensors)
    if wrong:
        raise ValueError(
            f"{file} does not fit this network: {'; '.join(wrong)}. Is --arch the network that it "
            "was trained as? Libraries name layers differently: resnet50 is that of "
            "pretrainedmodels, torchvision/resnet50 and timm/resnet50 are the others'."
        )
    with weights.usable_file(file):
        network.load_state_dict(tensors, strict=False)
    return network, beside


def _state_tensors(network: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in network.state_dict().items() if isinstance(v, Tensor)}


def _number_of_classes(expected: dict[str, Tensor], found: dict[str, Tensor]) -> int:
    """Return how many rows the classifiers have, where all agree on another number than 1000."""
    numbers = {
        len(found[key])
        for key, tensor in expected.items()
        if key in found
        and tensor.dim() == found[key].dim() > 0
        and len(tensor) == 1000
        and tensor.shape[1:] == found[key].shape[1:]
    }
    return numbers.pop() if len(numbers) == 1 else 1000


def _key_differences(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    """Return what is wrong, in at most three parts."""
    shapes = [
        f"{key} is {_tensor_shape(found[key])}, not {_tensor_shape(tensor)}"
        for key, tensor in expected.items()
        if key in found and tensor.shape != found[key].shape
    ]
    missing = [key for key in expected if key not in found and not OPTIONAL.search(key)]
    unexpected = [key for key in found if key not in expected]
    kinds = {"": shapes, "missing ": missing, "unexpected ": unexpected}
    return [what + weights.first_names(keys, KEYS_SHOWN) for what, keys in kinds.items() if keys]


def _tensor_shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def fitted(
    expected: dict[str, Tensor], found: dict[str, Tensor], file: Path
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a checkpoint's tensors by a network's keys, and those that are not the network's.

    On both sides the keys may stand under a prefix such as `model.` or `1.`. The one under which a
    checkpoint has all keys of the network is taken off. Tensors under other prefixes are not the
    network's: a normaliser, an attacker's copy of the weights. A network's own normaliser stays as
    it is where the checkpoint has none.

    Raises:
        ValueError: there are two such prefixes, with different weights.
    """
    keys = checkpoints.unwrapped(expected)
    prefixes = list(dict.fromkeys(path for key in found for path in _paths(key)))
    for outer in _outer_prefixes(keys):
        inner = {bare.removeprefix(outer): keys[bare] for bare in keys if bare.startswith(outer)}
        needed = [bare for bare in inner if not OPTIONAL.search(bare)]
        whole = [prefix for prefix in prefixes if all(prefix + bare in found for bare in needed)]
        if not needed or not whole:
            continue
        prefix, *copies = sorted(whole, key=_unlikeliness)
        for copy in copies:
            if _unlikeliness(copy) == _unlikeliness(prefix):
                _refuse_different(file, found, needed, prefix, copy)
        if prefix:
            logger.info("%s: took the keys under %s", file, prefix.strip("."))
        tensors = {key: expected[key] for key in keys.values() if key not in inner.values()}
        beside = {}
        for key, tensor in found.items():
            bare = key.removeprefix(prefix)
            other = checkpoints.BESIDE.search(bare) or key.startswith(tuple(copies))
            if key.startswith(prefix) and (bare in inner or not other):
                tensors[inner.get(bare, bare)] = tensor
            else:
                beside[key] = tensor
        return tensors, beside
    # The likeliest prefix is taken off, so that the error names no keys but those that are wrong.
    counts = {prefix: sum(prefix + bare in found for bare in keys) for prefix in prefixes}
    prefix = max(prefixes, key=counts.get)
    prefix = prefix if 2 * counts[prefix] > len(keys) else ""
    tensors = {key.removeprefix(prefix): tensor for key, tensor in found.items()}
    return {keys.get(bare, bare): tensor for bare, tensor in tensors.items()}, {}


def _outer_prefixes(keys: Iterable[str]) -> Iterator[str]:
    """Yield the prefixes under which a network, with a normaliser in front, has its own keys."""
    for path in sorted({path for key in keys for path in _paths(key)}, key=len):
        inside = [key.removeprefix(path) for key in keys if key.startswith(path)]
        outside = [key for key in keys if not key.startswith(path)]
        # A network's only layer is no wrapper, unless it is called as one.
        usual = (name.isdigit() or name in checkpoints.STATE_DICTS for name in path.split(".")[:-1])
        layers = any("." in key for key in inside) or all(usual)
        if layers and all(map(checkpoints.NORMALISER.search, outside)):
            yield path


def _paths(key: str) -> list[str]:
    """Return what a key can begin with: of `1.conv.weight` nothing, `1.` and `1.conv.`."""
    parts = key.split(".")
    return ["".join(f"{part}." for part in parts[:depth]) for depth in range(len(parts))]


def _unlikeliness(prefix: str) -> tuple[int, int]:
    """Return what prefixes are sorted by: the shortest first, and among these the usual ones."""
    usual, name = checkpoints.STATE_DICTS, prefix.partition(".")[0]
    return prefix.count("."), usual.index(name) if name in usual else len(usual)


def _refuse_different(
    file: Path, found: dict[str, Tensor], keys: Iterable[str], one: str, other: str
) -> None:
    """Raise a ValueError if two prefixes, of which neither is likelier, hold different weights."""
    pairs = ((found[one + key], found[other + key]) for key in keys)
    if not all(first.shape == second.shape and (first == second).all() for first, second in pairs):
        raise ValueError(
            f"{file} has different weights of this network under {one.strip('.')} and "
            f"{other.strip('.')}: save one of them alone"
        )


def normalised(spec: NetworkSpec, beside: dict[str, Tensor], file: Path) -> NetworkSpec:
    """Return a network with the mean and the standard deviation that a checkpoint brings along.

    A warning names the other tensors that the checkpoint holds besides the network. It also names
    the mean and the standard deviation where they are not used: for a network that takes other
    pixels than RGB in [0, 1], or the user's own, which may normalise by itself.
    """
    mean, std = (
        {tuple(tensor.flatten().tolist()) for key, tensor in beside.items() if name.search(key)}
        for name in (checkpoints.MEAN, checkpoints.STD)
    )
    if len(mean) == len(std) == 1 and not spec.code and spec.scale == 1 and not spec.bgr:
        (mean,), (std,) = mean, std
        if len(mean) == len(std) == 3 and 0 <= min(mean) <= max(mean) <= 1 and min(std) > 0:
            pairs = zip((*mean, *std), (*spec.mean, *spec.std), strict=True)
            if any(abs(one - other) > 1e-3 for one, other in pairs):
                values = (" ".join(f"{value:.4g}" for value in each) for each in (mean, std))
                logger.warning(
                    "%s: pixels get its mean %s and standard deviation %s", file, *values
                )
                spec = dataclasses.replace(spec, mean=mean, std=std)
            used = checkpoints.NORMALISER
            beside = {key: tensor for key, tensor in beside.items() if not used.search(key)}
    if beside:
        groups = Counter(key.partition(".")[0] for key in beside)
        listed = ", ".join(f"{name} ({number} tensors)" for name, number in groups.items())
        logger.warning("%s: beside the network it holds %s: not used", file, listed)
    return spec
