"""A user's Python file, run isolated from the suite: neither finds the other's modules."""

import contextlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from suite.running import devices
from suite.running.random_numbers import seed_globals
from suite.user_code.process_settings import contained

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (ROOT, ROOT / "scripts")
# These can't be loaded twice, even if a file beside the user's has such a name.
KEPT = {*sys.stdlib_module_names, "__main__", "torch", "torchvision", "numpy"}


def is_user_file(name: str) -> bool:
    """Return whether a name is of the form path/to/file.py:function."""
    return re.search(r"\.py(:\w*)?$", name) is not None


@contextlib.contextmanager
def loaded(name: str) -> Iterator[tuple[Callable, list[Path]]]:
    """Yield path/to/file.py:function, and a list of the files that it comes from.

    The list begins with the given file, and at the end has those that it imported from its own
    folder. The code inside the context runs isolated, too.

    Raises:
        OSError: there is no such file.
        ValueError: it fails, or has no such function.
    """
    path, _, function = name.rpartition(":")
    if not path.endswith(".py") or not function:
        raise ValueError(f"{name} is not of the form path/to/file.py:FUNCTION")
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}")
    files = [file]
    with isolated_import(file) as imported:
        module_name = f"own_{file.stem.replace('.', '_')}"
        spec = importlib.util.spec_from_file_location(module_name, file)
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module  # where dataclasses and torch.jit look for it
        seed_globals(0, [])  # so that weights that the file draws are the same in each run
        with blamed(file):
            spec.loader.exec_module(module)
        found = getattr(module, function, None)
        if not callable(found):
            raise ValueError(f"{file} has no function {function}")
        yield found, files
    files += sorted({path for path in imported if path.suffix == ".py"} - {file.absolute()})


@contextlib.contextmanager
def isolated_import(file: Path) -> Iterator[list[Path]]:
    """Search a file's own folder first for modules, and the suite's folders last, inside this.

    Afterwards sys.path and the modules loaded before are what they were, as are the settings of
    `contained`. Modules from the file's folder, and from folders that it added to sys.path, leave
    sys.modules, so that another file's `import models` does not get them; the list that is yielded
    then has their files.
    """
    own = [str(file.absolute().parent), str(file.resolve().parent)]
    entries, path, modules = sys.path, sys.path[:], dict(sys.modules)
    folders = _folders()
    hidden = {name for name in folders if folders[name] in FOLDERS or _stands_elsewhere(name, own)}
    for name in modules:
        if _top(name) in hidden:
            del sys.modules[name]
    sys.path[:] = own + sorted(path, key=lambda entry: Path(entry).resolve() in FOLDERS)
    importlib.invalidate_caches()
    files = []
    try:
        with contained():
            yield files
    finally:
        added = {Path(entry).resolve() for entry in {*sys.path} - {*path} | {*own}}
        folders = _folders()
        for name, module in list(sys.modules.items()):
            folder = folders.get(_top(name))
            if folder in added.union(FOLDERS) and modules.get(name) is not module:
                if folder not in FOLDERS and getattr(module, "__file__", None):
                    files.append(Path(module.__file__))
                del sys.modules[name]
        sys.modules.update(modules)
        sys.path, entries[:] = entries, path


def _top(name: str) -> str:
    return name.partition(".")[0]


def _folders() -> dict[str, Path]:
    """Return the folder on sys.path in which each loaded top-level module was found."""
    folders = {}
    for name in {_top(name) for name in sys.modules} - KEPT:
        module = sys.modules.get(name)
        place = next(iter(getattr(module, "__path__", [])), getattr(module, "__file__", None))
        if place:
            folders[name] = Path(place).resolve().parent
    return folders


def _stands_elsewhere(name: str, folders: list[str]) -> bool:
    """Return whether these folders have another module than the loaded one of this name."""
    spec = PathFinder.find_spec(name, folders)
    if spec is None or spec.loader is None:  # a folder without __init__.py comes last
        return False
    return spec.origin != getattr(sys.modules.get(name), "__file__", None)


@contextlib.contextmanager
def blamed(file: Path) -> Iterator[None]:
    """Turn what goes wrong in a user's code into a ValueError of one line that names the file."""
    try:
        yield
    except (Exception, SystemExit) as error:  # a script that parses its own command line exits
        if devices.out_of_memory(error):
            raise
        places = [(path, line) for path, line, *_ in traceback.extract_tb(error.__traceback__)]
        if isinstance(error, SyntaxError):
            places.append((error.filename or "", error.lineno))
        lines = [line for path, line in places if Path(path).absolute() == file.absolute()]
        place = f"{file}, line {lines[-1]}" if lines else file
        raise ValueError(f"{place}: {cause(error)}") from error


def cause(error: BaseException) -> str:
    """Return an error's type and message in one line."""
    text = message_line(error)
    if "TorchScript interpreter" in text:  # the cause comes after a traceback
        text = text.rpartition("Error: ")[2]
    return f"{type(error).__name__}: {text}"


def message_line(error: object) -> str:
    """Return an error's message without line breaks and a terminal's colours."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())
