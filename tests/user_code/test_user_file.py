"""A user's Python file: what it imports, what the suite still imports, and what is wrong in it."""

import sys

import pytest
import torch
from conftest import ROOT, shell

from suite.networks.classifier import load_model
from suite.user_code import user_file

NETWORK = """
from torch import nn
def tiny(classes=5):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))
"""
PIXELS = torch.rand(1, 3, 32, 32)


def classes(file, function="tiny"):
    return load_model(f"{file}:{function}")(PIXELS).shape[1]


def write(folder, files=(), **more):
    for name, text in (dict(files) | more).items():
        file = folder / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder / "net.py"


@pytest.fixture(autouse=True)
def undisturbed():
    """sys.path is the same before and after, and each module of before is the same one."""
    path, modules = sys.path[:], dict(sys.modules)
    yield
    assert sys.path == path
    assert {name for name in modules if sys.modules.get(name) is not modules[name]} == set()


SUITES = ["suite", "branches", "watching", "utils_sgm", "evaluate", "attack_iter", "convert_slim"]


@pytest.mark.parametrize("name", ["models", "networks", "conftest", "timm", *SUITES])
@pytest.mark.parametrize("package", [False, True])
def test_module_beside_the_file_is_the_one_that_it_imports(tmp_path, name, package):
    import convert_slim  # noqa: F401  as in a run, some are loaded

    sibling = f"{name}/__init__" if package else name
    file = write(tmp_path, {sibling: NETWORK}, net=f"from {name} import *")
    model = load_model(f"{file}:tiny")
    assert model(PIXELS).shape == (1, 5)
    assert list(model.digests) == [str(file), f"{tmp_path}/{sibling}.py"]
    assert str(tmp_path) not in str(sys.modules.get(name))


ADD_SRC = "import pathlib, sys\nsys.path.insert(0, str(pathlib.Path(__file__).parent / 'src'))\n"


@pytest.mark.parametrize(
    ("module", "net"),
    [
        ("models", "import models\ntiny = models.tiny"),
        ("models/nets/tiny", "from models.nets.tiny import tiny"),
        ("src/utils_sgm", f"{ADD_SRC}from utils_sgm import tiny"),
        ("src/branches", f"{ADD_SRC}from branches import tiny"),
        ("src/suite", f"{ADD_SRC}from suite import tiny"),
        ("src/models", f"{ADD_SRC}from models import tiny"),
    ],
)
def test_files_of_several_folders_get_their_own_modules(tmp_path, module, net):
    for count in (5, 7, 9):
        text = NETWORK.replace("classes=5", f"classes={count}")
        write(tmp_path / str(count), {module: text}, net=net)
    assert [classes(tmp_path / str(n) / "net.py") for n in (5, 7, 9, 5)] == [5, 7, 9, 5]


def test_suite_is_there_for_a_file_that_has_no_module_of_that_name(tmp_path):
    text = NETWORK + "from suite import networks\nfrom utils_sgm import register_sgm\n"
    assert classes(write(tmp_path, net=text)) == 5
    assert user_file.ROOT == ROOT


def test_what_a_file_imports_from_elsewhere_stays(tmp_path, monkeypatch):
    write(tmp_path / "library", lib_of_somebody="x = 1")
    monkeypatch.syspath_prepend(tmp_path / "library")
    assert classes(write(tmp_path / "own", net=NETWORK + "import lib_of_somebody")) == 5
    assert sys.modules.pop("lib_of_somebody").x == 1


def test_files_of_the_suite_s_own_names_do_not_hide_them_from_a_script(natural, tmp_path):
    names = [*SUITES, "select_images", "list_networks", "attack", "images"]
    write(tmp_path, dict.fromkeys(names, "raise RuntimeError('not this one')"))
    text = NETWORK.replace("classes=5", "classes=1000") + "\nfrom mine import x"
    write(tmp_path, net=text, mine="x = 1")
    attack = f"python attack_iter.py --input-dir {natural} --output-dir out --num-steps 1"
    done = shell(f"{attack} --arch net.py:tiny efficientnet_lite0", tmp_path)
    assert done.returncode == 0, done.stderr


def test_linked_file_finds_the_modules_beside_its_target(tmp_path):
    file = write(tmp_path / "there", net="from models import *", models=NETWORK)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "net.py").symlink_to(file)
    assert classes(tmp_path / "here" / "net.py") == 5


def test_file_of_an_odd_name_is_run_and_its_switches_do_not_stay(tmp_path):
    switches = "import sys, torch\nsys.path = sys.path[1:]\ntorch.set_grad_enabled(False)\n"
    write(tmp_path, {"my net.v2": switches + NETWORK})
    assert classes(tmp_path / "my net.v2.py") == 5
    assert torch.is_grad_enabled()


LATE_IMPORT = "import torch\nclass tiny(torch.nn.Module):\n def forward(s, x): import failing"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import absent_module", "line 1: ModuleNotFoundError: No module named 'absent_module'"),
        ("import broken", r"line 1: SyntaxError: .*broken.py, line 1"),
        ("def tiny(:", r"net.py, line 1: SyntaxError"),
        ("import failing", "line 1: ZeroDivisionError: division by zero"),
        ("\nraise SystemExit(2)", "line 2: SystemExit: 2"),
        ("import argparse\nargparse.ArgumentParser().parse_args(['--x'])", "line 2: SystemExit"),
        ("from . import models", "line 1: ImportError: attempted relative import"),
        ("def tiny(): return tiny()", "line 1: RecursionError"),
        (LATE_IMPORT, "No module named 'failing'.. Import it at the beginning"),
        ("x = '\0'", "SyntaxError: source code string cannot contain null bytes"),
        ("raise ValueError('one\\n\\ttwo')", "line 1: ValueError: one two"),
        ("def tiny(classes): pass", "without arguments .*'classes'.*write a function"),
        ("def tiny(*, classes): pass", "without arguments .*'classes'"),
        ("class tiny:\n def __init__(s, n): pass", "without arguments .*'n'"),
        ("def tiny():\n return open('absent')", "net.py, line 2: FileNotFoundError"),
        ("tiny = 3", "net.py has no function tiny"),
        ("def tiny(): return 3", "returns int, not an nn.Module"),
        ("def tiny(): import torch; return torch.nn.Linear(3, 5), 3", "returns tuple, not"),
        (NETWORK + "tiny = tiny()\ntiny.input_size = 'large'", "input_size can't be 'large'"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(tmp_path, text, reason):
    file = write(tmp_path, net=text, broken="def tiny(:", failing="1 / 0")
    with pytest.raises(ValueError, match=reason) as error:
        load_model(f"{file}:tiny")
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent.py:tiny", "no such file"),
        ("net.py:absent", "has no function absent"),
        ("net.py", "net.py is not of the form path.to.file.py:FUNC"),
    ],
)
def test_name_that_is_no_function_is_refused(tmp_path, name, reason):
    write(tmp_path, net=NETWORK)
    with pytest.raises((ValueError, OSError), match=reason):
        load_model(f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    "text",
    [
        "net = tiny()",  # a network
        "net = lambda: tiny()",
        "import functools\nnet = functools.partial(tiny, classes=5)",
        "class net(nn.Sequential):\n def __init__(s): super().__init__(*tiny())",
        "from dataclasses import dataclass\n@dataclass\nclass Options:\n    classes: int = 5\n"
        "def net(): return tiny(Options().classes)",
    ],
)
def test_name_may_stand_for_anything_that_gives_a_network(tmp_path, text):
    file = write(tmp_path, net=f"from __future__ import annotations\n{NETWORK}{text}")
    assert classes(file, "net") == 5
