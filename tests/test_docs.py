"""The documentation: its links lead somewhere, and its commands and examples run."""

import re
import shlex
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
import torchvision
from conftest import ROOT, SCRIPTS, STEPS, calibrated, example

from suite.attack.settings import OPTIONS
from suite.attack.sources import Source
from suite.networks.classifier import load_model

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
README = (ROOT / "README.md").read_text()


def commands(text):
    """Return the indented lines that are commands, continued ones as one."""
    lines = re.findall(r"^    (?:\$ )?(.*)", text.replace("\\\n", " "), re.M)
    words = [shlex.split(line, comments=True) for line in lines if re.match(r"[\w=\" ]+ ", line)]
    starts = ("python", "pip", "make", "sh", "torchrun")
    return [line for line in words if set(line[:9]) & set(starts)]


def anchors(page):
    text = page.read_text()
    titles = re.findall(r"^#+ (.*)", text, re.M)
    slugs = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


@EACH_PAGE
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://|mailto:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target


@EACH_PAGE
def test_files_that_are_named_exist(page):
    for name in re.findall(r"`((?:suite|tests|scripts|benchmarks)/[\w./]*)`", page.read_text()):
        assert (ROOT / name).exists(), name


def test_front_page_is_short_enough_to_be_read():
    lines = README.splitlines()
    assert len(lines) <= 120
    assert max(map(len, lines)) <= 100


def test_front_page_s_steps_run_in_their_order(succeed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = [line for line in commands(README) if line[0] == "python"]
    assert [line[1] for line in steps] == [f"{step}.py" for step in STEPS]
    for _, script, *options in steps:
        fewer = ["--num-images=2"] if script == "select_images.py" else []
        succeed(shlex.join([script.removesuffix(".py"), *options, *fewer]))
    assert (tmp_path / "results.csv").is_file()


def test_front_page_s_other_commands_have_what_they_need():
    """The demo's own steps are tested in test_protocol_scripts.py."""
    others = [line for line in commands(README) if line[0] != "python" and "sh" not in line]
    assert {line[0] for line in others} == {"make", "pip"}
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    for line in others:
        if "-c" in line and f"torch=={version('torch').partition('+')[0]}" not in pinned:
            continue  # another torch is tested
        if line[0] == "pip":
            line = [sys.executable, "-m", *line, "--no-index"]
        done = subprocess.run([*line, "--dry-run"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@EACH_PAGE
def test_commands_have_options_that_exist(page):
    for line in commands(page.read_text()):
        scripts = [n for n, word in enumerate(line) if re.fullmatch(r"[\w/]+\.(py|sh)", word)]
        for n in scripts[:1]:
            script = ROOT / line[n]
            assert script.is_file(), line
            if script.stem in SCRIPTS:
                SCRIPTS[script.stem].get_parser().parse_args(line[n + 1 :])


def unnamed(options, *pages):
    text = "".join((ROOT / page).read_text() for page in pages)
    return [option for option in options if not re.search(rf"{option}(?![\w-])", text)]


def test_page_of_attacks_names_each_setting_of_an_attack():
    options = [f"--{setting.name.replace('_', '-')}" for setting in OPTIONS]
    assert unnamed(options, "docs/attacks.md") == []


@pytest.mark.parametrize("step", STEPS)
def test_pages_name_each_option_of_the_steps(step):
    options = [action.option_strings[-1] for action in SCRIPTS[step].get_parser()._actions]
    assert unnamed(options, "README.md", *ROOT.glob("docs/*.md")) == []


def test_attack_from_python_is_as_the_page_shows_it():
    natural = torch.rand(2, 3, 224, 224)
    names = {"natural": natural, "labels": torch.tensor([3, 4])}
    exec(example("docs/attacks.md", "from suite.attack"), names)
    change = (names["adversarial"] - natural).abs().max() * 255
    assert change == pytest.approx(16, abs=1e-3)
    assert [len(names["source"].handles), names["source"].hooks] == [9, "branch"]


def test_python_gives_the_bytes_of_the_script_as_the_page_shows_it(
    succeed, natural, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nat_images").symlink_to(natural)
    succeed("attack_iter --input-dir nat_images --output-dir script --gamma 0.5 --batch-size 16")
    (tmp_path / "adv_images").mkdir()
    names = {"natural": torch.rand(1, 3, 224, 224), "labels": torch.tensor([3])}
    for text in ("from suite.attack", "write_png"):
        exec(example("docs/attacks.md", text), names)
    written = sorted(file.name for file in natural.glob("*.png"))
    assert sorted(file.name for file in (tmp_path / "adv_images").iterdir()) == written
    for name in written:
        ours, theirs = (tmp_path / folder / name for folder in ("adv_images", "script"))
        assert ours.read_bytes() == theirs.read_bytes()


def test_network_of_one_s_own_is_as_the_page_shows_it(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(example("docs/networks.md", "def network"))
    monkeypatch.chdir(tmp_path)
    torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), "weights.pt")
    source = Source(load_model("mine.py:network"), gamma=0.5, name="mine.py:network")
    assert source.network.input_size == (3, 32, 32)
    assert len(source.register_sgm()) == 5


def test_hooks_come_off_again_as_the_page_shows_it():
    model, images = calibrated(torchvision.models.resnet50()), torch.rand(1, 3, 64, 64)
    names = {"model": model, "images": images, "labels": torch.tensor([3])}
    exec(example("docs/sgm.md", "from utils_sgm"), names)
    assert len(names.pop("handles")) == 12
    assert not any(module._forward_hooks for module in model.modules())
    change = (names["adversarial"] - images).abs().max() * 255
    assert change == pytest.approx(16, abs=1e-3)
