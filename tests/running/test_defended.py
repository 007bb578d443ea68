"""Defences in front of networks' names."""

import pytest

from suite.defences import defence_names
from suite.running import cli


@pytest.mark.parametrize(
    ("name", "stack", "bare"),
    [
        ("resnet50", [], "resnet50"),
        ("jpeg+resnet50", [("jpeg", (75,))], "resnet50"),
        ("jpeg:90+bits:4+timm/x", [("jpeg", (90,)), ("bits", (4,))], "timm/x"),
        ("smooth:0.5+n", [("smooth", (0.5, 1000))], "n"),
        ("smooth:0.5:20+rp+n", [("smooth", (0.5, 20)), ("rp", ())], "n"),
        ("/tmp/c++/nets.py:f", [], "/tmp/c++/nets.py:f"),
        ("fd+/tmp/c++/nets.py:f", [("fd", ())], "/tmp/c++/nets.py:f"),
    ],
)
def test_name_is_split_into_defences_and_network(name, stack, bare):
    assert defence_names.split_defences(name) == (stack, bare)


def test_relative_path_may_have_a_plus_sign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c++").mkdir()
    (tmp_path / "c++" / "nets.py").touch()
    assert defence_names.split_defences("bits+c++/nets.py:f")[1] == "c++/nets.py:f"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "jpg:75+resnet50",
            "no defence is called 'jpg'; there are jpeg, bits, fd, rp, smooth, nrp",
        ),
        ("jpeg:0+resnet50", "the quality of jpeg is a whole number from 1 to 100, not 0"),
        ("jpeg:x+resnet50", "from 1 to 100, not x"),
        ("bits:2.5+resnet50", "from 1 to 8, not 2.5"),
        ("bits:9+resnet50", "from 1 to 8, not 9"),
        ("fd:3+resnet50", "too many parameters, write fd"),
        ("jpeg:75:2+resnet50", "too many parameters, write jpeg:QUALITY"),
        ("smooth:0+resnet50", "the sigma of smooth is a number above 0, not 0"),
        ("smooth:nan+resnet50", "not nan"),
        ("smooth:0.5:10+resnet50", "11 or more"),
        ("bits:3", "bits:3 has no network behind its defence: write bits:3.resnet50"),
        ("rp+", "write rp.resnet50"),
        ("jpeg+bits:4", "write jpeg.bits:4.resnet50"),
    ],
)
def test_wrong_name_is_refused_with_what_would_be_right(name, said):
    with pytest.raises(ValueError, match=said):
        defence_names.split_defences(name)


def test_checkpoint_is_of_the_network_behind_each_defence():
    archs = ["a", "bits+a", "jpeg+bits+a"]
    assert {k: str(v) for k, v in defence_names.checkpoints(archs, ["x.pth"]).items()} == {
        "a": "x.pth"
    }


def test_purifier_has_a_file_of_its_own():
    files = defence_names.checkpoints(["nrp+a"], ["a=x.pth", "nrp=y.pth"])
    assert {name: str(file) for name, file in files.items()} == {"a": "x.pth", "nrp": "y.pth"}


@pytest.mark.parametrize(
    ("archs", "given", "said"),
    [
        (["nrp+a"], None, "nrp.a needs the purifier's weights.*--checkpoint nrp=NRP_resG.pth"),
        (["nrp+a"], ["x.pth"], "x.pth does not begin with one of a, nrp"),
        (["bits+a", "bits+a"], ["a=x.pth"], "which a"),
        (["jpg+a"], None, "no defence"),
    ],
)
def test_wrong_checkpoint_is_a_wrong_use(archs, given, said):
    with pytest.raises(cli.UsageError, match=said):
        defence_names.checkpoints(archs, given)
