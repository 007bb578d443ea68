"""Files of weights: where they are kept, and loading them without running code from them."""

import contextlib
import os
import pickle
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from suite.user_code.user_file import message_line
from suite.user_code.user_network import shape_text

# Their messages say what is wrong without the name of the error.
SELF_EXPLAINING = (RuntimeError, ValueError, SafetensorError)
# Counters that evaluation does not use; checkpoints from before PyTorch 0.4.1 lack the first one.
OPTIONAL = re.compile(r"(^|\.)(num_batches_tracked|n_averaged)$")


def weights_folder() -> Path:
    """Return the folder where torch keeps weights; TORCH_HOME moves it."""
    return Path(torch.hub.get_dir(), "checkpoints")


def kept_file(url: str) -> Path:
    """Return the file in that folder where a download is kept."""
    return weights_folder() / url.rpartition("/")[2]


def digest_in_name(file: Path) -> str:
    """Return the first digits of the SHA-256 in a file's name; empty if the name has none."""
    match = re.search(r"-([0-9a-f]{8,})\.", file.name)
    return match[1] if match else ""


@contextlib.contextmanager
def usable_file(file: Path | None, advice: str = "") -> Iterator[None]:
    """Load a file in this context: no code from it runs, and errors name the file.

    Args:
        file: None if the weights are random; errors are then passed on as they are.
        advice: what the user can do about an unusable file.

    Raises:
        ValueError: the file is not usable.
    """
    # The libraries' loaders do not ask torch for weights only.
    weights_only = mock.patch.dict(os.environ, TORCH_FORCE_WEIGHTS_ONLY_LOAD="1")
    # pretrainedmodels calls torchvision in a deprecated way.
    with warnings.catch_warnings(action="ignore"), weights_only:
        try:
            yield
        except Exception as error:
            if file is None or isinstance(error, (OSError, MemoryError)):
                raise
            message = f"{file}: not usable as weights of this network ({_reason(error)}). {advice}"
            raise ValueError(message.strip()) from error


def _reason(error: Exception) -> str:
    text = message_line(error)
    if "TorchScript archives" in text:
        return (
            "saved by torch.jit: a function of your own can load and return it, --arch FILE.py:NAME"
        )
    if not isinstance(error, pickle.UnpicklingError):
        return text if isinstance(error, SELF_EXPLAINING) else f"{type(error).__name__}: {text}"
    refused = re.search(r"GLOBAL (\S+) (was not an allowed|whose module)", text)
    if refused:
        return (
            f"a pickle that would run code: it needs {refused[1]}. Save the weights alone, as "
            "docs/networks.md says"
        )
    # torch surrounds the cause with its advice to switch the check off, and a link.
    said = re.search(r"WeightsUnpickler error: (.*?)(?: Check the documentation|$)", text)
    text = said[1] if said else text
    if re.fullmatch(r"Unsupported operand 1(4\d|5[01])", text):
        text = "its pickle protocol is above 2, that of torch.save"
    return f"damaged, or a pickle that would run code: {text}"


def key_differences(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor | np.ndarray]
) -> list[str]:
    """Return one text each for wrong shapes, missing and unexpected keys, if there are any.

    A text names ten keys at most.
    """
    shapes = [
        f"{key} is {shape_text(found[key])}, not {shape_text(tensor)}"
        for key, tensor in expected.items()
        if key in found and tensor.shape != found[key].shape
    ]
    missing = [key for key in expected if key not in found and not OPTIONAL.search(key)]
    unexpected = [key for key in found if key not in expected]
    kinds = {"": shapes, "missing ": missing, "unexpected ": unexpected}
    return [what + first_names(keys, 10) for what, keys in kinds.items() if keys]


def first_names(names: Collection[object], most: int = 20) -> str:
    """Return a list of names as text, and how many more there are than are shown."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, list(names)[:most])) + more
