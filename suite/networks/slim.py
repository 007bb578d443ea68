"""TF-Slim's Inception-v3, Inception-v4 and Inception-ResNet-v2 on timm's modules.

The released checkpoints, also the adversarially trained ones, come from the graphs that
tensorflow/models keeps under research/slim/nets. `slim_network` is the same function in torch. Its
weights come from a checkpoint's variables (`convert_variables`), or from the .npy files into which
ylhz/tf_to_pytorch_model converted the checkpoints with MMdnn (`read_mmdnn`). These files hold a
dict of layers, named after the graph's operations, with arrays in torch's layout.
"""

import pickle
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from suite.networks.unpickled import GLOBALS, Array
from suite.networks.weights import key_differences

ARCHITECTURES = ("inception_v3", "inception_v4", "inception_resnet_v2")
SLIM_CLASSES = 1001  # of which the first one is the background

# A block's branches, separated by |, each with its convolutions from the input on; _layers writes
# the names out. Branches that only pool are empty, and left out at the end.
_V3_A = "0a_1x1 | 0a_1x1 0b_5x5 | 0a_1x1 0b_3x3 0c_3x3 | 0b_1x1"
_SEVEN = "0a_1x1 | 0a_1x1 0b_1x7 0c_7x1 | 0a_1x1 0b_7x1 0c_1x7 0d_7x1 0e_1x7 | 0b_1x1"
_SEVEN_DOWN = "0a_1x1 1a_3x3 | 0a_1x1 0b_1x7 0c_7x1 1a_3x3"
_THREE_DOWN = "1a_3x3 | 0a_1x1 0b_3x3 1a_3x3"
_V4_A = "0a_1x1 | 0a_1x1 0b_3x3 | 0a_1x1 0b_3x3 0c_3x3 | 0b_1x1"
_V4_C = "0a_1x1 | 0a_1x1 0b_1x3 0c_3x1 | 0a_1x1 0b_3x1 0c_1x3 0d_1x3 0e_3x1 | 0b_1x1"
_BLOCK35 = "1x1 | 0a_1x1 0b_3x3 | 0a_1x1 0b_3x3 0c_3x3"
_BLOCK17 = "1x1 | 0a_1x1 0b_1x7 0c_7x1"
_BLOCK8 = "1x1 | 0a_1x1 0b_1x3 0c_3x1"

_BLOCKS = {
    # The odd names are slim's: 5c's second branch, 6a's 3x3 convolutions called 1x1, 7b's two 0b.
    "inception_v3": {
        "Mixed_5b": _V3_A,
        "Mixed_5c": "0a_1x1 | 0b_1x1 Conv_1_0c_5x5 | 0a_1x1 0b_3x3 0c_3x3 | 0b_1x1",
        "Mixed_5d": _V3_A,
        "Mixed_6a": "1a_1x1 | 0a_1x1 0b_3x3 1a_1x1",
        **dict.fromkeys([f"Mixed_6{letter}" for letter in "bcde"], _SEVEN),
        "Mixed_7a": _SEVEN_DOWN,
        "Mixed_7b": "0a_1x1 | 0a_1x1 0b_1x3 0b_3x1 | 0a_1x1 0b_3x3 0c_1x3 0d_3x1 | 0b_1x1",
        "Mixed_7c": "0a_1x1 | 0a_1x1 0b_1x3 0c_3x1 | 0a_1x1 0b_3x3 0c_1x3 0d_3x1 | 0b_1x1",
    },
    "inception_v4": {
        "Mixed_3a": " | 0a_3x3",
        "Mixed_4a": _SEVEN_DOWN,
        "Mixed_5a": "1a_3x3",
        **dict.fromkeys([f"Mixed_5{letter}" for letter in "bcde"], _V4_A),
        "Mixed_6a": _THREE_DOWN,
        **dict.fromkeys([f"Mixed_6{letter}" for letter in "bcdefgh"], _SEVEN),
        "Mixed_7a": _SEVEN_DOWN,
        **dict.fromkeys([f"Mixed_7{letter}" for letter in "bcd"], _V4_C),
    },
    "inception_resnet_v2": {
        "Mixed_5b": "1x1 | 0a_1x1 0b_5x5 | 0a_1x1 0b_3x3 0c_3x3 | 0b_1x1",
        **dict.fromkeys([f"Repeat/block35_{number}" for number in range(1, 11)], _BLOCK35),
        "Mixed_6a": _THREE_DOWN,
        **dict.fromkeys([f"Repeat_1/block17_{number}" for number in range(1, 21)], _BLOCK17),
        "Mixed_7a": "0a_1x1 1a_3x3 | 0a_1x1 1a_3x3 | 0a_1x1 0b_3x3 1a_3x3",
        **dict.fromkeys([f"Repeat_2/block8_{number}" for number in range(1, 10)], _BLOCK8),
        "Block8": _BLOCK8,
    },
}
_ENDS = {
    "inception_v3": ["Logits/Conv2d_1c_1x1"],
    "inception_v4": ["Logits/Logits"],
    "inception_resnet_v2": ["Conv2d_7b_1x1", "Logits/Logits"],
}

# The auxiliary classifier's variables, the optimizer's, and averages of the others.
_TRAINING_ONLY = re.compile(
    r"(^|/)(AuxLogits/.*|global_step|beta[12]_power)$"
    r"|/(Momentum|RMSProp|Adam|ExponentialMovingAverage)(_\d+)?$"
)


def slim_network(architecture: str, classes: int = 1000) -> nn.Module:
    """Return slim's network with random weights, on the CPU and in evaluation mode.

    It takes RGB pixels in [-1, 1], N x 3 x 299 x 299, and returns N x classes logits, by default
    slim's without the background class. The keys of its state dict are timm's.
    """
    model = timm.create_model(architecture, num_classes=classes)
    for name, module in model.named_modules():
        if isinstance(module, nn.AvgPool2d):
            module.count_include_pad = False
        elif isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
        elif architecture == "inception_v3" and name.endswith(".branch_pool"):
            # Just before this convolution timm pools by a function that counts the padding.
            module.register_forward_pre_hook(_leave_padding_out)
    return model.eval()


def _leave_padding_out(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """Turn 3x3 averages that count zero padding into averages without it."""
    (pooled,) = inputs
    share = avg_pool2d(pooled.new_ones(1, 1, *pooled.shape[-2:]), 3, stride=1, padding=1)
    return (pooled / share,)


def variable_names(architecture: str) -> dict[str, str]:
    """Return the key in timm's state dict of each of slim's variables, named without the scope."""
    state = _empty_network(architecture).state_dict()
    # timm defines its convolutions and linear layers in the order of slim's graph.
    weights = [key for key, tensor in state.items() if tensor.dim() > 1]
    names = {}
    for layer, weight in zip(_layers(architecture), weights, strict=True):
        names[f"{layer}/weights"] = weight
        if weight.endswith(".conv.weight"):
            norm = weight.removesuffix("conv.weight") + "bn"
            names[f"{layer}/BatchNorm/beta"] = f"{norm}.bias"
            names[f"{layer}/BatchNorm/moving_mean"] = f"{norm}.running_mean"
            names[f"{layer}/BatchNorm/moving_variance"] = f"{norm}.running_var"
        else:
            names[f"{layer}/biases"] = weight.removesuffix("weight") + "bias"
    return names


def _layers(architecture: str) -> Iterator[str]:
    """Yield slim's names of the layers with weights, in the order of its graph."""
    yield from (f"Conv2d_{layer}" for layer in ("1a_3x3", "2a_3x3", "2b_3x3"))
    if architecture != "inception_v4":
        yield from ("Conv2d_3b_1x1", "Conv2d_4a_3x3")
    for block, branches in _BLOCKS[architecture].items():
        for number, branch in enumerate(branches.split("|")):
            for layer in branch.split():
                prefix = "" if layer.startswith("Conv") else "Conv2d_"
                yield f"{block}/Branch_{number}/{prefix}{layer}"
        if "lock" in block:
            yield f"{block}/Conv2d_1x1"  # the end of a residual branch: biases, no batch norm
    yield from _ENDS[architecture]


def _empty_network(architecture: str) -> nn.Module:
    """Return the network with slim's classes, with shapes but no values."""
    with torch.device("meta"):
        return slim_network(architecture, SLIM_CLASSES)


def guess_architecture(variables: Collection[str]) -> str:
    """Return the architecture that shares most names with a checkpoint's variables.

    Raises:
        ValueError: no scope holds one of the three networks.
    """
    scope = _scope(variables)
    inside = {name.removeprefix(scope) for name in variables if name.startswith(scope)}
    return max(ARCHITECTURES, key=lambda name: len(inside & variable_names(name).keys()))


def convert_variables(variables: Mapping[str, np.ndarray], architecture: str) -> dict[str, Tensor]:
    """Return the state dict for `slim_network(architecture)` from a checkpoint's variables.

    Convolutions' weights turn from height x width x in x out to out x in x height x width, the
    background class goes, and slim's batch norms, which have no gamma, get the weight 1.

    Args:
        variables: arrays by name, all in one scope of any name. Those of the auxiliary classifier
            and of the optimizer are left out.

    Raises:
        ValueError: variables are missing, unexpected or of the wrong shape; it names them.
    """
    variables = {name: variables[name] for name in variables if not _TRAINING_ONLY.search(name)}
    scope = _scope(variables)
    keys = {scope + name: key for name, key in variable_names(architecture).items()}
    # Batch norms' weights stay 1; all else is overwritten, but for the counters of batches.
    state = {
        key: torch.ones(tensor.shape) if tensor.dim() else torch.tensor(0)
        for key, tensor in _empty_network(architecture).state_dict().items()
    }
    in_slims_layout = {name: _in_slims_layout(name, state[key]) for name, key in keys.items()}
    if wrong := key_differences(in_slims_layout, variables):
        raise ValueError(f"the variables are not those of {architecture}: {'; '.join(wrong)}")
    for name, view in in_slims_layout.items():
        view.copy_(torch.from_numpy(np.array(variables[name], dtype=np.float32)))
    return {
        key: tensor[1:].clone() if tensor.shape[:1] == (SLIM_CLASSES,) else tensor
        for key, tensor in state.items()
    }


def _in_slims_layout(variable: str, tensor: Tensor) -> Tensor:
    """Return a view of a tensor of timm's network with the shape of slim's variable."""
    if variable.endswith("Logits/Conv2d_1c_1x1/weights"):  # a linear layer in timm
        tensor = tensor[:, :, None, None]
    return tensor.permute(2, 3, 1, 0) if tensor.dim() == 4 else tensor.t()


def _scope(variables: Collection[str]) -> str:
    """Return what stands before the names of the first layer's variables."""
    first = "Conv2d_1a_3x3/weights"
    scopes = {name.removesuffix(first) for name in variables if name.endswith(first)}
    scopes = sorted(s for s in scopes if s.endswith("/") and "Branch_" not in s or not s)
    if not scopes:
        raise ValueError(f"no variable is called {first}: not an Inception of TF-Slim")
    if len(scopes) > 1:
        raise ValueError(f"more than one network, in the scopes {' and '.join(scopes)}")
    return scopes[0]


def read_mmdnn(file: Path, architecture: str | None = None) -> dict[str, Tensor]:
    """Return the state dict for `slim_network(architecture)` from a file of MMdnn's.

    Args:
        architecture: one of `ARCHITECTURES`; the one whose layers the file has if None.

    Raises:
        OSError: the file can't be read.
        ValueError: it has other layers, is no file of MMdnn's, or would run code.
    """
    variables = dict(slim_variables(_mmdnn_layers(file)))
    return convert_variables(variables, architecture or guess_architecture(variables))


def _mmdnn_layers(file: Path) -> dict[str, dict[str, np.ndarray]]:
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
    return {
        layer: {key: array.numbers() for key, array in arrays.items() if isinstance(array, Array)}
        for layer, arrays in layers.items()
    }


class _Unpickler(pickle.Unpickler):
    """Unpickles NumPy's arrays and Python's own containers; anything else would run code."""

    known = GLOBALS | {"_codecs.encode": lambda text, encoding: text.encode("latin1")}

    def find_class(self, module: str, name: str) -> object:
        if f"{module}.{name}" in self.known:
            return self.known[f"{module}.{name}"]
        raise ValueError(
            f"a pickle that would run code: it needs {module}.{name}, and is to have NumPy's "
            "arrays alone"
        )


def slim_variables(layers: Mapping[str, Mapping]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and values of the variables in MMdnn's layers, for `convert_variables`."""
    for layer, arrays in layers.items():
        # Operations have the network's name twice, variables once: Net/Net/Conv2d_1a/Conv2D.
        # Those of the logits have it once.
        scope = re.sub(r"^([^/]*/)\1", r"\1", layer.rpartition("/")[0])
        if "weights" in arrays:
            weights = arrays["weights"]
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
