"""What would give a wrong number in silence is refused, or warned of."""

import pytest
from conftest import labels_of
from small import ATTACK, EVALUATE, SELECT, label


@pytest.mark.parametrize("command", [ATTACK, EVALUATE, SELECT])
@pytest.mark.parametrize(("labels", "target"), [([10] * 6, None), (range(6), 10)])
def test_class_that_a_network_lacks_is_refused_before_the_work(
    run, folder, command, labels, target
):
    label(folder / "nat", labels, target)
    status, out, err = run(f"{command}ten", x=folder)
    what = "target class" if target else "label"
    assert (status, out) == (1, "")
    assert f".png: its {what} is 10, but {folder}/nets.py:ten has 10 classes only, 0 to 9" in err
    assert not list(folder.glob("adv/*.png")) + list(folder.glob("kept/*.png"))


def test_labels_go_as_far_as_the_network_s_classes(succeed, folder):
    label(folder / "nat", [5000] * 6)
    succeed(f"{ATTACK}many", x=folder)
    assert set(labels_of(folder / "adv").values()) == {5000}
    succeed("evaluate --input-dir {x}/adv --arch {x}/nets.py:many", x=folder)


@pytest.mark.parametrize(
    ("shift", "warning"),
    [
        (0, None),
        (1, "do the labels count from 1"),
        (-1, "stand for the background"),
        (5, "wrong labels, or preprocessing"),
    ],
)
def test_evaluation_warns_of_labels_that_do_not_fit(succeed, folder, shift, warning):
    (folder / "nat" / "labels.csv").unlink()
    attack = "attack_iter --input-dir {x}/nat --output-dir {x}/predicted --num-steps 1 --arch"
    succeed(f"{attack} {{x}}/nets.py:thousand", x=folder)
    predicted = labels_of(folder / "predicted").values()
    label(folder / "nat", [(each + shift) % 1000 for each in predicted])
    _, err = succeed(f"{EVALUATE}thousand --nat-dir {{x}}/nat", x=folder)
    assert (warning or "") in err
    assert ("natural images" in err) == bool(warning)


def test_folders_with_other_labels_than_the_natural_ones_are_refused(run, folder):
    assert run(f"{ATTACK}ten", x=folder)[0] == 0
    label(folder / "adv", range(1, 7))
    command = "evaluate --input-dir {x}/adv --nat-dir {x}/nat --arch {x}/nets.py:ten"
    status, out, err = run(command, x=folder)
    assert (status, out) == (1, "")
    assert f"0.png has the label 0 in {folder}/nat, but 1 in {folder}/adv" in err


def test_network_with_a_background_class_is_warned_of(run, folder):
    _, _, err = run(f"{EVALUATE}background", x=folder)
    assert "has 1001 classes: if the first is the background" in err


@pytest.mark.parametrize("command", [ATTACK, f"{ATTACK}ten {{x}}/nets.py:", EVALUATE, SELECT])
def test_logits_that_are_not_finite_are_refused_by_name(run, folder, command):
    status, out, err = run(f"{command}nan", x=folder)
    assert (status, out) == (1, "")
    assert f"{folder}/nets.py:nan" in err.splitlines()[-1]
    assert "not finite" in err.splitlines()[-1]
    assert "gradient is zero" not in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--epsilon 0.0627", "--epsilon 0.0627 is in 1/255, and rounds to nothing"),
        ("--step-size 0.0078", "all steps together reach 0.0156/255, which rounds to nothing"),
        ("--epsilon 0.9 --rand-init", "rounds to nothing"),
    ],
)
def test_epsilon_and_steps_that_round_to_nothing_are_wrong_use(run, folder, options, words):
    status, _, err = run(f"{ATTACK}ten {options}", x=folder)
    assert (status, words in err) == (2, True)


@pytest.mark.parametrize("options", ["0.3", "-1", "0 --rand-init"])
def test_steps_that_reach_a_level_are_right_use(succeed, folder, options):
    succeed(f"{ATTACK}ten --step-size {options}", x=folder)


def test_gradient_is_blamed_only_where_it_is_zero(succeed, folder):
    assert "stay as they are" not in succeed(f"{ATTACK}ten", x=folder)[1]
    _, err = succeed(f"{ATTACK}constant --overwrite", x=folder)
    assert "the gradient is zero at 6 images, which stay as they are: 0.png" in err


@pytest.mark.parametrize(("network", "warned"), [("of_batch", True), ("ten", False)])
def test_network_whose_answers_depend_on_the_batch_is_warned_of(run, folder, network, warned):
    for command in (ATTACK, EVALUATE, SELECT):
        _, _, err = run(f"{command}{network}", x=folder)
        assert ("its numbers depend on --batch-size" in err) == warned, command
