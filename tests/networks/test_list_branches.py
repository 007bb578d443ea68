"""scripts/list_branches.py: where branch hooks go."""

import json


def test_each_connection_is_a_line(succeed):
    out, _ = succeed("list_branches torchvision/resnet18 cifar10/resnet20")
    lines = out.splitlines()
    assert lines[0] == "torchvision/resnet18:"
    assert "addition       branch layer1.0.bn2" in lines
    assert "addition       left alone: no skip connection, in layer2.0" in lines
    # A shortcut of He et al.'s option A takes every second pixel.
    left = "left alone: its skip connection drops or pools values, in layer2.0"
    assert f"addition       {left}" in lines
    numbers = [line for line in lines if "residual branches" in line]
    assert numbers == ["5 residual branches", "7 residual branches"]


def test_json_is_a_line_for_each_network(succeed):
    out, _ = succeed("list_branches --json torchvision/resnet18 cifar10/resnet20")
    first, second = map(json.loads, out.splitlines())
    assert (first["arch"], second["arch"]) == ("torchvision/resnet18", "cifar10/resnet20")
    branch = {"kind": "addition", "place": "layer1.0", "module": "layer1.0.bn2", "residual": True}
    assert first["connections"][0] == branch | {"in_part": False}
    assert sum(each["module"] is not None for each in second["connections"]) == 7
    assert sum(each["in_part"] for each in second["connections"]) == 2


def test_network_without_residual_branches_is_an_error(run):
    status, out, err = run("list_branches torchvision/vgg11")
    assert (status, out) == (1, "torchvision/vgg11:\n0 residual branches\n")
    assert "no residual branch in torchvision/vgg11: gamma would do nothing" in err


def test_defence_in_front_of_a_network_is_left_away(run, folder):
    status, out, _ = run("list_branches bits:3+{x}/nets.py:ten", x=folder)
    assert (status, "1 residual branches" in out) == (0, True)
    status, _, err = run("list_branches jpg+{x}/nets.py:ten", x=folder)
    assert (status, "no defence is called 'jpg'" in err) == (2, True)
