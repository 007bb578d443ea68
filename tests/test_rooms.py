"""Which room may import which: read from the source, so that nothing has to run."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

STEPS = {"select_images", "attack_iter", "evaluate"}
METHOD = {"utils_sgm", "branches", "watching"}
# Which rooms a room may import.
MAY = {
    "method": set(),
    "images": set(),
    "running": {"images"},
    "networks": {"method", "images", "running"},
    "defences": {"networks", "images", "running"},
    "attack": {"method", "defences", "networks", "images", "running"},
    "results": {"method", "defences", "networks", "images", "running"},
    "steps": {"method", "attack", "results", "defences", "networks", "images", "running"},
    "scripts": {"method", "attack", "results", "defences", "networks", "images", "running"},
}


def sources():
    files = [*ROOT.glob("*.py"), *ROOT.glob("suite/*/*.py"), *ROOT.glob("scripts/*.py")]
    return {file.relative_to(ROOT): file.read_text() for file in files}


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
        return False
    if first != "suite":
        return room != "method" or first == "torch" or first in sys.stdlib_module_names
    # Outsiders come in by the room's door; each module of `running` is one.
    by_the_door = len(rest) <= (3 if rest[0] == "running" else 2)
    return rest[0] == room or (rest[0] in MAY[room] and by_the_door)


def forbidden(file, source):
    return [name for name in imported(source) if not may_import(room_of(file), name)]


def test_imports_run_one_way():
    found = {str(file): forbidden(file, source) for file, source in sources().items()}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("suite/images/folders.py", "from suite.networks import load_model"),
        ("suite/images/folders.py", "import attack_iter"),
        ("suite/images/folders.py", "import utils_sgm"),
        ("suite/running/runs.py", "from suite import networks"),
        ("suite/networks/models.py", "from suite.attack import Attack"),
        ("suite/networks/models.py", "import list_networks"),
        ("suite/networks/models.py", "from suite import defences"),
        ("suite/defences/randomised.py", "from suite.attack import image_generators"),
        ("suite/attack/crafting.py", "from suite import results"),
        ("suite/results/report.py", "def f():\n    from suite.attack import Attack"),
        ("suite/results/report.py", "from suite.images.pictures import read_image"),
        ("evaluate.py", "from suite.networks.models import load_model"),
        ("utils_sgm.py", "import numpy"),
        ("branches.py", "from suite.running import cli"),
    ],
)
def test_forbidden_import_is_found(file, line):
    assert forbidden(Path(file), line)


def test_arrows_between_rooms_have_no_circle():
    reached = MAY
    for _ in MAY:
        reached = {
            room: others.union(*(reached[other] for other in others))
            for room, others in reached.items()
        }
    assert not [room for room in MAY if room in reached[room]]


def test_doors_say_what_their_room_is_for():
    for file, source in sources().items():
        if file.name == "__init__.py":
            assert len(ast.get_docstring(ast.parse(source)).splitlines()) > 2, file


needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")


def tracked_files():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    return [Path(name) for name in listed.stdout.splitlines() if (ROOT / name).exists()]


@needs_git
def test_root_shows_the_steps_the_method_and_the_folders():
    assert {
        file.stem for file in tracked_files() if file.match("*.py") and not file.parent.name
    } == (STEPS | METHOD)
    folders = {file.parts[0] for file in tracked_files() if len(file.parts) > 1}
    assert folders == {".ci", "data", "suite", "scripts", "docs", "benchmarks", "tests"}


@needs_git
def test_no_file_is_too_long_to_read():
    lengths = {
        file: len((ROOT / file).read_text().splitlines())
        for file in tracked_files()
        if file.suffix in (".py", ".md", ".sh")
    }
    assert [file for file, lines in lengths.items() if lines > 260] == []
    assert [script for script in STEPS if lengths[Path(f"{script}.py")] >= 170] == []
