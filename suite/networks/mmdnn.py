"""TF-Slim's weights as MMdnn writes them for PyTorch: an .npy of one dict, by layer.

Each layer has `weights` and perhaps `bias`, or `mean`, `var`, `bias` and perhaps `scale`, laid out
as torch does it. Such files of the Inceptions are offered by
https://github.com/ylhz/tf_to_pytorch_model, of which this is commit 87c30c7.
"""

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from suite.networks import slim
from suite.networks.unpickled import GLOBALS, Array


def read_state_dict(file: Path, architecture: str | None = None) -> dict[str, Tensor]:
    """Return the state dict for `slim.network(architecture)` from a file of MMdnn's.

    Args:
        architecture: one of `slim.ARCHITECTURES`; the one whose layers the file has if None.

    Raises:
        OSError: the file can't be read.
        ValueError: it has other layers, is something else, or a pickle that would run code.
    """
    variables = dict(slim_variables(_layers(file)))
    return slim.convert(variables, architecture or slim.guess_architecture(variables))


def _layers(file: Path) -> dict[str, dict[str, np.ndarray]]:
    with file.open("rb") as stream:
        start = stream.read(10)  # of an .npy: magic, version and the length of the header
        header = stream.read(int.from_bytes(start[8:], "little"))
        if b"'descr': '|O'" not in header or b"'shape': ()" not in header:
            raise ValueError("an array, not a dict of layers")
        try:
            # In this encoding what Python 2 pickled keeps its bytes.
            (layers,) = _Unpickler(stream, encoding="latin1").load().data
        except (MemoryError, OverflowError) as error:
            raise ValueError("damaged, or larger than memory") from error
    if not isinstance(layers, dict) or not all(isinstance(v, dict) for v in layers.values()):
        raise ValueError("not a dict of layers, each a dict of arrays")
    return {layer: _numbers(arrays) for layer, arrays in layers.items()}


def _numbers(arrays: dict) -> dict[str, np.ndarray]:
    found = {key: array.numbers() for key, array in arrays.items() if isinstance(array, Array)}
    return {key: array for key, array in found.items() if array is not None}


def slim_variables(layers: Mapping[str, Mapping]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the value of each of slim's variables, see `slim.convert`."""
    for layer, arrays in layers.items():
        scope = _scope(layer)
        if "weights" in arrays:
            weights = arrays["weights"]
            # Slim has them as height x width x in x out, or in x out.
            weights = weights.transpose(2, 3, 1, 0) if weights.ndim == 4 else weights.T
            yield f"{scope}/weights", weights
            if "bias" in arrays:
                yield f"{scope}/biases", arrays["bias"]
        elif "mean" in arrays:
            yield f"{scope}/beta", arrays.get("bias", 0 * arrays["mean"])
            yield f"{scope}/moving_mean", arrays["mean"]
            yield f"{scope}/moving_variance", arrays["var"]
            if not np.all(arrays.get("scale", 1) == 1):
                yield f"{scope}/gamma", arrays["scale"]  # which slim's batch norms do not have


def _scope(layer: str) -> str:
    """Return the scope of a layer's variables: `Net/Conv2d_1a` of `Net/Net/Conv2d_1a/Conv2D`.

    Operations have the network's name twice, variables once; those of the logits have it once.
    """
    scope, _, _ = layer.rpartition("/")
    network, _, rest = scope.partition("/")
    return rest if rest.startswith(f"{network}/") else scope


class _Unpickler(pickle.Unpickler):
    """Unpickles NumPy's arrays and Python's own containers; anything else would run code."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) == ("_codecs", "encode"):
            return _bytes
        if f"{module}.{name}" not in GLOBALS:
            raise ValueError(
                f"a pickle that would run code: it needs {module}.{name}, and is to have NumPy's "
                "arrays alone"
            )
        return GLOBALS[f"{module}.{name}"]


def _bytes(text: str, encoding: str) -> bytes:
    """Return what Python 3 pickles bytes as, in the protocols that Python 2 knew."""
    return text.encode("latin1")
