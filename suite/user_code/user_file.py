"""A function from a user's Python file: path/to/file.py:function."""

import contextlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from suite.running import devices
from suite.user_code.isolated_import import isolated_import

Loaded = TypeVar("Loaded")


def is_user_file(name: str) -> bool:
    """Return whether a name is of the form path/to/file.py:function."""
    return re.search(r"\.py(:\w*)?$", name) is not None


def python_file(name: str) -> Path:
    """Return the file in path/to/file.py:function."""
    return Path(name.rpartition(":")[0] or name)


def load_function(name: str, use: Callable[[Callable], Loaded]) -> tuple[Loaded, tuple[Path, ...]]:
    """Return `use(path/to/file.py:function)`, and the files that the function comes from.

    Those are the given one and what it imports from its own folder. `use` runs isolated, too.

    Raises:
        OSError: there is no such file.
        ValueError: it fails, or has no such function.
    """
    file, function = python_file(name), name.rpartition(":")[2]
    if not is_user_file(name):
        raise ValueError(f"{name} is not of the form path/to/file.py:FUNCTION")
    if not name.endswith(f".py:{function}") or not function:
        raise ValueError(f"{name} lacks the function to call: {file}:FUNCTION")
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}")
    with isolated_import(file) as imported:
        module_name = f"own_{file.stem.replace('.', '_')}"
        spec = importlib.util.spec_from_file_location(module_name, file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # where dataclasses and torch.jit look for it
        with blamed(file):
            spec.loader.exec_module(module)
        found = getattr(module, function, None)
        if not callable(found):
            raise ValueError(f"{file} has no function {function}")
        used = use(found)
    siblings = {path for path in imported if path.suffix == ".py" and not _is_same_file(path, file)}
    return used, (file, *sorted(siblings))


@contextlib.contextmanager
def blamed(file: Path) -> Iterator[None]:
    """Turn what goes wrong in a user's code into a ValueError of one line that names the file."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a script that parses its own command line exits
        if devices.out_of_memory(error):
            raise
        line = _last_line(error, file)
        place = f"{file}, line {line}" if line else file
        raise ValueError(f"{place}: {type(error).__name__}: {message_line(error)}") from error


def message_line(error: object) -> str:
    """Return an error's message without line breaks and a terminal's colours."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())


def _last_line(error: BaseException, file: Path) -> int | None:
    """Return the last line of the file on the way to the error; None if it was never there."""
    if isinstance(error, SyntaxError) and error.filename and _is_same_file(error.filename, file):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if _is_same_file(frame.filename, file)]
    return lines[-1] if lines else None


def _is_same_file(filename: str | Path, file: Path) -> bool:
    return Path(filename).absolute() == file.absolute()
