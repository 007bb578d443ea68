"""Names of defended networks, their checkpoints, and the modules that are made for a batch."""

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
        ("fd+c++/nets.py:f", [("fd", ())], "c++/nets.py:f"),  # a relative path
    ],
)
def test_name_is_split_into_defences_and_network(tmp_path, monkeypatch, name, stack, bare):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c++").mkdir()
    (tmp_path / "c++" / "nets.py").touch()
    assert defence_names.split_defences(name) == (stack, bare)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("jpg:75+n", "no defence is called 'jpg'; there are jpeg, bits, fd, rp, smooth, nrp"),
        ("jpeg:0+resnet50", "the quality of jpeg: 0 is not a whole number from 1 to 100"),
        ("jpeg:x+resnet50", "x is not .* from 1 to 100"),
        ("bits:2.5+resnet50", "2.5 is not .* from 1 to 8"),
        ("bits:9+resnet50", "9 is not .* from 1 to 8"),
        ("fd:3+resnet50", "too many parameters, write fd"),
        ("jpeg:75:2+resnet50", "too many parameters, write jpeg:QUALITY"),
        ("smooth:1:20:3+n", "too many parameters, write smooth:SIGMA:COPIES"),
        ("smooth:0+resnet50", "the sigma of smooth: 0 is not a number above 0"),
        ("smooth:nan+resnet50", "nan is not"),
        ("smooth:0.5:10+resnet50", "10 is not a whole number of 11 or more"),
        ("bits:3", "bits:3 has no network behind its defence: write bits:3.resnet50"),
        ("rp+", "write rp.resnet50"),
        ("jpeg+bits:4", "write jpeg.bits:4.resnet50"),
    ],
)
def test_wrong_name_is_refused_with_what_would_be_right(name, said):
    with pytest.raises(ValueError, match=said):
        defence_names.split_defences(name)


@pytest.mark.parametrize(
    ("archs", "given", "files"),
    [
        (["a", "bits+a", "jpeg+bits+a"], ["x.pth"], {"a": "x.pth"}),
        (["nrp+a"], ["a=x.pth", "nrp=y.pth"], {"a": "x.pth", "nrp": "y.pth"}),
    ],
)
def test_checkpoint_is_the_network_s_behind_each_defence_or_the_purifier_s(archs, given, files):
    found = defence_names.checkpoints(archs, given)
    assert {name: str(file) for name, file in found.items()} == files


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
