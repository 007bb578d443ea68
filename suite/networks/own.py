"""A user's own networks: checkpoints for a known architecture, and modules from a Python file."""

import importlib.util
import logging
import re
import traceback
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from suite.networks import weights

logger = logging.getLogger(__name__)

SHOWN = 10  # of the keys that are wrong


def load_checkpoint(build: Callable[[int], nn.Module], file: Path) -> nn.Module:
    """Return a network with the weights of a checkpoint, and with as many classes as it has.

    Args:
        build: makes the network with random weights and a number of classes.
        file: see `weights.read_state_dict`.

    Raises:
        OSError, ValueError: the file is not usable; names missing, unexpected and misshapen keys.
    """
    tensors = weights.read_state_dict(file)
    with weights.usable(None):
        network = build(1000)
        classes = _classes(network.state_dict(), tensors)
        if classes != 1000:
            logger.info("%s: %d classes", file, classes)
            network = build(classes)
    wrong = _differences(network.state_dict(), tensors)
    if wrong:
        more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise ValueError(
            f"{file} does not fit this network: {'; '.join(wrong[:SHOWN])}{more}. Is --arch the "
            "network that it was trained as? Libraries name layers differently: resnet50 is that "
            "of pretrainedmodels, torchvision/resnet50 and timm/resnet50 are the others'."
        )
    network.load_state_dict(tensors, strict=False)
    return network


def _classes(expected: dict[str, Tensor], found: dict[str, Tensor]) -> int:
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


def _differences(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    # Checkpoints from before PyTorch 0.4.1 lack this counter, which evaluation does not use.
    missing = [
        f"missing {key}"
        for key in expected
        if key not in found and not key.endswith(".num_batches_tracked")
    ]
    unexpected = [f"unexpected {key}" for key in found if key not in expected]
    shapes = [
        f"{key} is {_shape(found[key])}, not {_shape(tensor)}"
        for key, tensor in expected.items()
        if key in found and tensor.shape != found[key].shape
    ]
    return shapes + missing + unexpected


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def is_own(name: str) -> bool:
    """Return whether a network's name is of the form path/to/file.py:function."""
    return re.search(r"\.py(:\w*)?$", name) is not None


def file_of(name: str) -> Path:
    """Return the file in path/to/file.py:function."""
    return Path(name.rpartition(":")[0] or name)


def call(name: str) -> nn.Module:
    """Return what the function in path/to/file.py:function returns. Only that file is run.

    Raises:
        OSError: there is no such file.
        ValueError: it fails, has no such function, or returns something else than a module.
    """
    file, function = file_of(name), name.rpartition(":")[2]
    if not name.endswith(f".py:{function}") or not function:
        raise ValueError(f"{name} lacks the function to call: {file}:FUNCTION")
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}")
    spec = importlib.util.spec_from_file_location(f"own_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not callable(getattr(module, function, None)):
            raise ValueError(f"{file} has no function {function}")
        network = getattr(module, function)()
    except Exception as error:
        line = _last_line(error, file)
        if line is None:
            raise
        raise ValueError(f"{file}, line {line}: {type(error).__name__}: {error}") from error
    if not isinstance(network, nn.Module):
        raise ValueError(f"{name} returns {type(network).__name__}, not an nn.Module")
    return network


def _last_line(error: Exception, file: Path) -> int | None:
    """Return the line of a user's file at which an error came up; None if it is not from there."""
    if isinstance(error, SyntaxError):
        return error.lineno
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if _same(f.filename, file)]
    return lines[-1] if lines else None


def _same(filename: str, file: Path) -> bool:
    return Path(filename).absolute() == file.absolute()


def input_size(network: nn.Module) -> tuple[int, int, int]:
    """Return channels, height and width by a module's `input_size`, 3 x 224 x 224 if it has none.

    Raises:
        ValueError: it is neither a size, nor height and width, nor channels, height and width.
    """
    size = getattr(network, "input_size", 224)
    sizes = (size, size) if isinstance(size, int) else size
    if not isinstance(sizes, tuple | list) or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise ValueError(f"input_size can't be {size!r}: 224, (224, 224) or (3, 224, 224)")
    if len(sizes) == 2:
        sizes = (3, *sizes)
    if len(sizes) != 3 or sizes[0] != 3:
        raise ValueError(f"input_size can't be {size!r}: 224, (224, 224) or (3, 224, 224)")
    return tuple(sizes)
