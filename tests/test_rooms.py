"""Which room may import which, and what a room is: read from the source, so that nothing runs."""

import ast
import subprocess
import sys
from collections import Counter, defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import ROOT, STEPS

METHOD = {"utils_sgm", "branches", "watching"}
# Which rooms a room may import; the standard library and installed packages are free.
MAY = {
    "method": set(),
    "images": set(),
    "running": {"images"},
    "user_code": {"method", "running", "images"},
    "networks": {"method", "user_code", "running", "images"},
    "defences": {"networks", "user_code", "running", "images"},
    "results": {"defences", "networks", "user_code", "running", "images"},
    "attack": {"method", "defences", "networks", "user_code", "running", "images"},
}
MAY["steps"] = MAY["scripts"] = set(MAY)
REPEATED = {"logger", "main", "get_parser", "check"}


def sources():
    files = [*ROOT.glob("*.py"), *ROOT.glob("suite/**/*.py"), *ROOT.glob("scripts/*.py")]
    return {file.relative_to(ROOT): file.read_text() for file in files}


def modules():
    """The modules of the root and of the package, without the rooms' doors."""
    apart = {file: source for file, source in sources().items() if file.parts[0] != "scripts"}
    return {file: ast.parse(s) for file, s in apart.items() if file.name != "__init__.py"}


def room_of(file):
    if len(file.parts) > 1:
        return file.parts[-2]
    return "method" if file.stem in METHOD else "steps"


def imported(source):
    """Yield the dotted name of all that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def may_import(room, name):
    first, *rest = name.split(".")
    if first in METHOD:
        return room == "method" or "method" in MAY[room]
    if first in STEPS or (ROOT / "scripts" / f"{first}.py").is_file():
        return room == "scripts" and first not in STEPS
    if first != "suite":
        return room != "method" or first == "torch" or first in sys.stdlib_module_names
    module = ROOT.joinpath("suite", *rest[:2]).with_suffix(".py")  # not by way of a door
    return module.is_file() and (rest[0] == room or rest[0] in MAY[room])


def forbidden(file, source):
    return [name for name in imported(source) if not may_import(room_of(file), name)]


def test_imports_run_one_way():
    found = {str(file): forbidden(file, source) for file, source in sources().items()}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("suite/images/folders.py", "from suite.networks.classifier import load_model"),
        ("suite/images/folders.py", "from suite.running import cli"),
        ("suite/images/folders.py", "import attack_iter"),
        ("suite/images/folders.py", "import utils_sgm"),
        ("suite/running/runs.py", "from suite.user_code import user_file"),
        ("suite/user_code/user_network.py", "from suite.networks import classifier"),
        ("suite/networks/classifier.py", "from suite.attack.settings import Attack"),
        ("suite/networks/classifier.py", "import list_networks"),
        ("suite/networks/classifier.py", "from suite.defences import defence_names"),
        ("suite/defences/randomised.py", "from suite.attack.sources import Source"),
        ("suite/attack/crafting.py", "from suite.results import report"),
        ("suite/results/report.py", "def f():\n    from suite.attack.settings import Attack"),
        ("suite/results/report.py", "import branches"),
        ("evaluate.py", "from suite.networks import load_model"),
        ("evaluate.py", "import suite.networks"),
        ("scripts/figure1.py", "import evaluate"),
        ("utils_sgm.py", "import numpy"),
        ("branches.py", "from suite.running import cli"),
    ],
)
def test_forbidden_import_is_found(file, line):
    assert forbidden(Path(file), line)


def test_arrows_between_rooms_have_no_circle():
    TopologicalSorter(MAY).prepare()


def test_door_of_a_room_has_a_docstring_alone():
    rooms = {file.parent for file in sources() if len(file.parts) > 2}
    assert {room.name for room in rooms} == MAY.keys() - {"method", "steps", "scripts"}
    for door in (Path("suite"), *rooms):
        tree = ast.parse((ROOT / door / "__init__.py").read_text())
        assert ast.get_docstring(tree), door
        assert len(tree.body) == 1, door


def top_level_names(tree):
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_top_level_name_stands_in_one_file():
    found = defaultdict(set)
    for file, tree in modules().items():
        for name in top_level_names(tree):
            found[name].add(str(file))
    assert {n: files for n, files in found.items() if len(files) > 1 and n not in REPEATED} == {}


def test_no_two_modules_have_one_name():
    names = Counter(file.stem for file in modules())
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_root_shows_the_steps_the_method_and_the_folders():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    tracked = [Path(name) for name in listed.stdout.splitlines() if (ROOT / name).exists()]
    assert {f.stem for f in tracked if f.match("*.py") and not f.parent.name} == METHOD.union(STEPS)
    folders = {file.parts[0] for file in tracked if len(file.parts) > 1}
    assert folders == {".ci", "data", "suite", "scripts", "docs", "benchmarks", "tests"}
