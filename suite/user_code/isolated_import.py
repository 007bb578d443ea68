"""Run a user's Python file isolated from the suite: neither finds the other's modules."""

import contextlib
import importlib
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType

import torch

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (ROOT, ROOT / "scripts")
# These can't be loaded twice, even if a file beside the user's has such a name.
KEPT = {*sys.stdlib_module_names, "__main__", "torch", "torchvision", "numpy"}
TORCH_SETTINGS = (
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, torch.set_default_device),
)


@contextlib.contextmanager
def isolated_import(file: Path) -> Iterator[list[Path]]:
    """Search a file's own folder first for modules, and the suite's folders last, inside this.

    Afterwards sys.path, the suite's modules and torch's settings are what they were. Modules from
    the file's folder, and from folders that it added to sys.path, leave sys.modules, so that
    another file's `import models` does not get them.

    Yields:
        a list, which at the end holds the files of those modules.
    """
    own = list(dict.fromkeys((str(file.absolute().parent), str(file.resolve().parent))))
    entries, path, modules = sys.path, sys.path[:], dict(sys.modules)
    settings = [get() for get, _ in TORCH_SETTINGS]
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
        added = [*own, *(entry for entry in sys.path if entry not in path)]
        added = {Path(entry).resolve() for entry in added}
        folders = {top: _folder(sys.modules.get(top)) for top in _tops(sys.modules)}
        theirs = {top for top, folder in folders.items() if folder in added}
        for name, module in list(sys.modules.items()):
            if _top(name) in hidden | theirs and modules.get(name) is not module:
                if folders[_top(name)] not in FOLDERS and getattr(module, "__file__", None):
                    files.append(Path(module.__file__))
                del sys.modules[name]
        sys.modules.update({name: modules[name] for name in modules if name not in sys.modules})
        sys.path, entries[:] = entries, path
        for (get, restore), before in zip(TORCH_SETTINGS, settings, strict=True):
            if get() != before:
                restore(before)


def _names() -> set[str]:
    """Return the names under which the suite's modules are imported."""
    return {"suite"} | {file.stem for folder in FOLDERS for file in folder.glob("*.py")}


def _top(name: str) -> str:
    return name.partition(".")[0]


def _tops(modules: Iterable[str]) -> set[str]:
    return {_top(name) for name in modules} - KEPT


def _is_other(module: ModuleType | None, name: str, path: list[str]) -> bool:
    """Return whether a loaded module is another one than that of this name in these folders."""
    spec = PathFinder.find_spec(name, path)
    if spec is None or spec.loader is None:  # a folder without __init__.py comes last
        return False
    return spec.origin != getattr(getattr(module, "__spec__", None), "origin", None)


def _folder(module: ModuleType | None) -> Path | None:
    """Return the folder on sys.path in which a module was found."""
    place = next(iter(getattr(module, "__path__", [])), getattr(module, "__file__", None))
    return Path(place).resolve().parent if place else None
