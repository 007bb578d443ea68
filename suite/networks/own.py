"""Modules of the user's own, from a function in a Python file."""

import contextlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from suite.networks.apart import apart
from suite.networks.weights import one_line


def is_own(name: str) -> bool:
    """Return whether a network's name is of the form path/to/file.py:function."""
    return re.search(r"\.py(:\w*)?$", name) is not None


def file_of(name: str) -> Path:
    """Return the file in path/to/file.py:function."""
    return Path(name.rpartition(":")[0] or name)


def call(name: str) -> tuple[nn.Module, tuple[Path, ...]]:
    """Return the network that path/to/file.py:function stands for, and the files it comes from.

    That is what the function returns, or the module that the file has under that name. The files
    are the given one and those that it imports from its own folder.

    Raises:
        OSError: there is no such file.
        ValueError: it fails, has no such function, or returns something else than a module.
    """
    file, function = file_of(name), name.rpartition(":")[2]
    if not name.endswith(f".py:{function}") or not function:
        raise ValueError(f"{name} lacks the function to call: {file}:FUNCTION")
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}")
    with apart(file) as imported:
        network = _network(name, file, function)
    siblings = {path for path in imported if path.suffix == ".py" and not _same(path, file)}
    return network, (file, *sorted(siblings))


def _network(name: str, file: Path, function: str) -> nn.Module:
    name_inside = f"own_{file.stem.replace('.', '_')}"
    spec = importlib.util.spec_from_file_location(name_inside, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and torch.jit look for it
    with _blamed(file):
        spec.loader.exec_module(module)
    made = getattr(module, function, None)
    if not callable(made):
        raise ValueError(f"{file} has no function {function}")
    if not isinstance(made, nn.Module):
        _refuse_arguments(name, made)
        with _blamed(file):
            made = made()
    if not isinstance(made, nn.Module):
        raise ValueError(f"{name} returns {type(made).__name__}, not an nn.Module")
    return made


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


@contextlib.contextmanager
def _blamed(file: Path) -> Iterator[None]:
    """While a user's code runs: what goes wrong is a ValueError of one line that names the file."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a script that parses its own command line exits
        line = _last_line(error, file)
        place = f"{file}, line {line}" if line else file
        raise ValueError(f"{place}: {type(error).__name__}: {one_line(error)}") from error


def _last_line(error: BaseException, file: Path) -> int | None:
    """Return the line of a user's file at which an error came up; None if it is not from there."""
    if isinstance(error, SyntaxError) and error.filename and _same(error.filename, file):
        return error.lineno
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if _same(f.filename, file)]
    return lines[-1] if lines else None


def _same(filename: str | Path, file: Path) -> bool:
    return Path(filename).absolute() == file.absolute()
