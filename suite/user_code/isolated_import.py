"""A user's Python file, run apart from the suite: neither finds the other's modules."""

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import torch

ROOT = Path(__file__).resolve().parents[2]
# The suite's own folders of scripts.
FOLDERS = (ROOT, ROOT / "scripts")
# What can't be loaded twice, even if a file beside the user's has that name.
KEPT = {*sys.stdlib_module_names, "__main__", "torch", "torchvision", "numpy"}


@contextlib.contextmanager
def isolated_import(file: Path) -> Iterator[list[Path]]:
    """While a user's file runs, its own folder comes first, and the suite's folders last.

    Afterwards sys.path, the suite's modules and torch's settings are what they were. The modules
    of the user's folder, and of others that the file added to sys.path, are out of
    sys.modules, so that another file's `import models` does not get them.

    Yields:
        a list, which in the end holds the files of those modules.
    """
    own = list(dict.fromkeys((str(file.absolute().parent), str(file.resolve().parent))))
    entries, modules, settings = sys.path, dict(sys.modules), _torch_settings()
    path = entries[:]
    ours = [entry for entry in path if Path(entry).resolve() in FOLDERS]
    hidden = _names() | {top for top in _tops(modules) if _is_other(modules.get(top), top, own)}
    for name in modules:
        if _top(name) in hidden:
            del sys.modules[name]
    sys.path[:] = [*own, *(entry for entry in path if entry not in ours), *ours]
    importlib.invalidate_caches()
    files = []
    try:
        yield files
    finally:
        added = {*own, *(entry for entry in sys.path if entry not in path)}
        added = {Path(entry).resolve() for entry in added}
        found = {top: _module_folder(sys.modules.get(top)) for top in _tops(sys.modules)}
        theirs = {top for top, folder in found.items() if folder in added}
        for name, module in list(sys.modules.items()):
            if _top(name) in hidden | theirs and modules.get(name) is not module:
                if found[_top(name)] not in FOLDERS and getattr(module, "__file__", None):
                    files.append(Path(module.__file__))
                del sys.modules[name]
        sys.modules.update({name: modules[name] for name in modules if name not in sys.modules})
        sys.path, entries[:] = entries, path
        for (get, set_back), before in settings.items():
            if get() != before:
                set_back(before)


def _torch_settings() -> dict[tuple[Callable, Callable], object]:
    """Return what torch is set to, by how to get it and how to set it."""
    pairs = (
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_default_device, torch.set_default_device),
    )
    return {pair: pair[0]() for pair in pairs}


def _names() -> set[str]:
    """Return the names under which the suite's modules are imported."""
    return {"suite"} | {file.stem for folder in FOLDERS for file in folder.glob("*.py")}


def _top(name: str) -> str:
    return name.partition(".")[0]


def _tops(modules: Iterable[str]) -> set[str]:
    return {_top(name) for name in modules} - KEPT


def _is_other(module: ModuleType | None, name: str, path: list[str]) -> bool:
    """Say whether a module of this name in these folders is another one than that was loaded."""
    spec = PathFinder.find_spec(name, path)
    if spec is None or spec.loader is None:  # a folder without __init__.py comes last
        return False
    return spec.origin != getattr(getattr(module, "__spec__", None), "origin", None)


def _module_folder(module: ModuleType | None) -> Path | None:
    """Return the folder on sys.path in which a module was found."""
    paths = list(getattr(module, "__path__", []))
    place = paths[0] if paths else getattr(module, "__file__", None)
    return Path(place).resolve().parent if place else None
