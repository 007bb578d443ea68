"""Networks of the user's own, from a function in a Python file."""

import inspect
from pathlib import Path

from torch import nn

from suite.running import own


def call(name: str) -> tuple[nn.Module, tuple[Path, ...]]:
    """Return the network that path/to/file.py:function stands for, and the files it comes from.

    That is what the function returns, or the module that the file has under that name.

    Raises:
        OSError: there is no such file.
        ValueError: it fails, has no such function, or returns something else than a module.
    """

    def network(made: object) -> nn.Module:
        if not isinstance(made, nn.Module):
            _refuse_arguments(name, made)
            with own.blamed(own.file_of(name)):
                made = made()
        if not isinstance(made, nn.Module):
            raise ValueError(f"{name} returns {type(made).__name__}, not an nn.Module")
        return made

    return own.load(name, network)


def _refuse_arguments(name: str, function: object) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # it does not tell
        return
    try:
        signature.bind()
    except TypeError as error:
        raise ValueError(
            f"{name} can't be called without arguments ({error}): write a function into the file "
            "that returns it with them"
        ) from error
