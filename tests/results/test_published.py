"""Published numbers: how they are read, which of ours they belong to, and whether both agree."""

import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from evaluate import PUBLISHED_FOLDER, PUBLISHED_NAMES
from suite.attack.settings import OPTIONS, Attack
from suite.results import published, rates
from suite.running import cli

HEADER = "source,attack,gamma,target,mean,std,from,epsilon,num_steps\n"
ROW = "resnet152,PGD,0.2,vgg19_bn,79.9,0.69,Table 3,16,10\n"
WITH = "published with {} none instead of {}"


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


RUN = {
    "source": "resnet152",
    "attack": "PGD",
    "gamma": 0.2,
    "epsilon": 16.0,
    "step_size": 2.0,
    "num_steps": 10,
    "options": {"step_size": -1.0, "rand_init": False, "branches": None, "checkpoint": None},
}


def beside(file, run=RUN, target="vgg19_bn", checkpoints=()):
    """Return what was published of one row and target; 80 of 100 images succeeded."""
    ours = {"success": {"rate": 80.0}}
    rows = [{"folders": ["adv"], "images": 100, "targets": {target: ours}}]
    numbers = published.read_published([file])
    published.compare_published(rows, {Path("adv"): run}, numbers, checkpoints)
    return ours["published"]["mine"]


# Wilson's interval of 80 of 100, from tables: 71.12 to 86.66.
@pytest.mark.parametrize(
    ("mean", "std", "allowed", "verdict"),
    [
        (71.5, None, 80 - 71.12, "agrees"),
        (70, None, 80 - 71.12, "differs"),
        (70, 2, math.hypot(80 - 71.12, 3.92), "differs"),
        (70, 3, math.hypot(80 - 71.12, 5.88), "agrees"),
        (86.5, None, 86.66 - 80, "agrees"),
        (88, None, 86.66 - 80, "differs"),
        (88, 3, math.hypot(86.66 - 80, 5.88), "agrees"),
    ],
)
def test_rates_agree_as_far_as_both_intervals_reach(write, mean, std, allowed, verdict):
    text = ROW.replace("79.9,0.69", f"{mean},{'' if std is None else std}")
    found = beside(write(HEADER + text))
    assert found["verdict"] == verdict
    assert found["points"] == pytest.approx(80 - mean)
    assert found["allowed"] == pytest.approx(allowed, abs=0.005)
    assert (found["mean"], found["std"], found["from"]) == (mean, std, "Table 3")


def test_several_runs_have_the_interval_of_their_mean():
    rate = {"rate": 80.0, "std": 0.001}
    one = published.allowed({"rate": 80.0}, 100, 70, 2)
    assert published.allowed(rate, 100, 70, 2) == one
    low, _ = rates.interval(80, 100)
    assert one == math.hypot(80 - low, 3.92)


@pytest.mark.parametrize(
    ("run", "target", "reason"),
    [
        ({"source": "resnet50"}, "vgg19_bn", "none on resnet50"),
        ({"attack": "PGD+DI"}, "vgg19_bn", "none of PGD+DI at gamma 0.2 on resnet152"),
        ({"gamma": 0.5}, "vgg19_bn", "none of PGD at gamma 0.5 on resnet152"),
        ({}, "vgg19", "none on the target vgg19"),
        ({"num_steps": 20}, "vgg19_bn", "published with num_steps 10 instead of 20"),
        ({"options": {"rand_init": True}}, "vgg19_bn", WITH.format("rand_init", "yes")),
        ({"options": {"checkpoint": ["o.pth"]}}, "vgg19_bn", WITH.format("checkpoint", "o.pth")),
        ({"source": None}, "vgg19_bn", "no run.json says how the images were made"),
        # The same network, saved again in another file.
        ({"source": "torchvision/resnet152"}, "vgg19_bn", "none on torchvision/resnet152"),
        ({}, "torchvision/vgg19_bn", "torchvision/vgg19_bn has weights of --checkpoint"),
    ],
)
def test_where_nothing_was_published_the_reason_is_said(write, run, target, reason):
    own = {"torchvision/vgg19_bn": Path("own.pth")}
    found = beside(write(HEADER + ROW), RUN | run, target, own)
    assert found == {"verdict": "none published", "reason": reason}


def test_names_of_one_network_have_one_number(write):
    assert beside(write(HEADER + ROW), target="torchvision/vgg19_bn")["mean"] == 79.9


def test_an_empty_setting_is_any_and_others_tell_numbers_apart(write):
    text = HEADER + ROW.replace(",16,10", ",,10") + ROW.replace("79.9", "60").replace(",10", ",20")
    for steps, mean in ((10, 79.9), (20, 60)):
        assert beside(write(text), RUN | {"num_steps": steps})["mean"] == mean


def test_settings_are_those_of_the_run_not_of_the_command_line(write):
    text = HEADER.replace("num_steps", "step_size") + ROW.replace(",10\n", ",2\n")
    assert beside(write(text))["mean"] == 79.9  # the option was -1


def test_a_file_may_ask_for_what_runs_are_without(write):
    text = HEADER.replace("num_steps", "branches") + ROW.replace(",10\n", r",Mixed.*\.bn" + "\n")
    there = RUN | {"options": {"branches": r"Mixed.*\.bn"}}
    assert beside(write(text), there)["mean"] == 79.9
    assert beside(write(text))["reason"] == r"published with branches Mixed.*\.bn instead of none"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source,attack,gamma\n", "mine.csv has no column target and mean and std and from"),
        ("", "mine.csv has no column source"),
        (HEADER + ROW + ROW.replace("79.9", "7x"), "line 3: mean is '7x', not a number from 0 to"),
        (HEADER + ROW.replace("79.9", "101"), "line 2: mean is '101', not a number from 0 to 100"),
        (HEADER + ROW.replace("79.9", "nan"), "line 2: mean is 'nan', not"),
        (HEADER + ROW.replace("0.69", "-1"), "line 2: std is '-1', not"),
        (HEADER + ROW.replace(",0.2,", ",2,"), "line 2: gamma is '2', not a number from 0 to 1"),
        (HEADER + ROW.replace("79.9", ""), "line 2: mean is empty"),
        (HEADER + ROW.replace(",10\n", ",10,5\n"), "line 2: it has more cells than the header"),
        (HEADER + ROW + "\n" + ROW, "mine.csv, line 2 and {}, line 4 are of the same run"),
        (
            HEADER + ROW + ROW.replace("vgg19_bn", "torchvision/vgg19_bn").replace(",10\n", ",\n"),
            "mine.csv, line 2 and {}, line 3 are of the same run",
        ),
    ],
)
def test_wrong_files_are_refused_with_line_and_value(write, text, message):
    file = write(text)
    with pytest.raises(ValueError, match=re.escape(message.format(file))) as error:
        published.read_published([file])
    assert str(error.value).startswith(str(file))


def test_two_files_of_one_name_are_refused(write, tmp_path):
    (tmp_path / "more").mkdir()
    with pytest.raises(cli.UsageError, match="two files are called mine"):
        published.read_published([write(HEADER), write(HEADER, "more/mine.csv")])


@pytest.mark.parametrize("name", PUBLISHED_NAMES)
def test_our_files_have_names_of_networks_and_settings_of_attacks(name):
    (numbers,) = published.read_published([PUBLISHED_FOLDER / f"{name}.csv"]).values()
    assert numbers
    options = {option.name for option in OPTIONS}
    for number in numbers:
        for network in (number.source, number.target):
            assert not isinstance(network, str)  # as names are that stand for no network
        assert number.settings.keys() - published.WITHOUT.keys() <= options | {"hooks"}


def test_settings_of_transferattack_make_the_attacks_that_are_named():
    (numbers,) = published.read_published([PUBLISHED_FOLDER / "transferattack.csv"]).values()
    assert len(numbers) == 12 * 8
    for number in numbers:
        given = {n: float(v) for n, v in number.settings.items() if n not in published.WITHOUT}
        nesterov = "NI-FGSM" in number.attack
        assert Attack(**given, nesterov=nesterov).name == number.attack


def test_numbers_of_the_released_hooks_are_not_those_of_the_formula(write):
    text = HEADER.replace("num_steps", "num_steps,hooks") + ROW.replace("16,10", "16,10,relu")
    file = write(text)
    assert beside(file, RUN | {"hooks": ["relu"]})["mean"] == 79.9
    found = beside(file, RUN | {"options": RUN["options"] | {"hooks": "auto"}, "hooks": ["branch"]})
    assert found["reason"] == "published with hooks relu instead of branch"


def test_column_that_stands_twice_is_refused(write):
    file = write("mean," + HEADER + "1," + ROW)
    with pytest.raises(ValueError, match="mine.csv has two columns mean: keep one"):
        published.read_published([file])


def test_published_numbers_cost_no_network():
    """pretrainedmodels builds two ResNeXts as it is imported, of 480 MB."""
    code = (
        "import resource, pathlib, torch, torchvision, timm, scipy.stats\n"
        "from suite.results import published\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        f"published.read_published([pathlib.Path({str(PUBLISHED_FOLDER / 'paper.csv')!r})])\n"
        "print((peak() - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert int(done.stdout) < 100
