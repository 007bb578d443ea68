"""What would give a wrong number in silence is refused, or warned of."""

import json

import pytest
from conftest import labels_of
from small import ATTACK, EVALUATE, SELECT, answers_of, label

from suite.images.labels import write_labels


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


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("epsilon", each) for each in ("NaN", "Infinity", "1e999", "-1", "true", '"8"')],
        ("epsilon", "1" + "0" * 400),
        *[("gamma", each) for each in ("[[1]]", "NaN", '["a"]', "{}")],
        *[("num_steps", each) for each in ('"10"', "[10]", "{}")],
        *[("options", each) for each in ('{"arch": 5}', '{"seed": {"a": 1}}', "[]", '{"a": NaN}')],
        *[("weights", each) for each in ('{"a": []}', '{"a": 1}')],
        *[("hooks", each) for each in ('{"a": 1}', "[[]]")],
        ("targeted", "0"),
        ("batch_size", "true"),
        ("source", "[" * 900 + "]" * 900),
        ("source", "[" * 100_000 + "]" * 100_000),
    ],
)
def test_value_of_run_json_that_can_not_be_is_refused_by_name(run, folder, key, value):
    assert run(f"{ATTACK}ten", x=folder)[0] == 0
    file = folder / "adv" / "run.json"
    made = json.loads(file.read_text()) | {key: None}
    file.write_text(json.dumps(made).replace(f'"{key}": null', f'"{key}": {value}', 1))
    command = "evaluate --input-dir {x}/adv --nat-dir {x}/nat --arch {x}/nets.py:ten"
    status, out, err = run(f"{command} --published paper --plot {{x}}/p.png", x=folder)
    last = err.splitlines()[-1]
    assert (status, out) == (1, "")
    assert f"{file}" in last
    assert len(last) < 300
    assert f"{key} can't be" in last or "is not JSON" in last or "option arch" in last


@pytest.fixture
def targeted(succeed, folder):
    """The six images, each attacked with the next class as its target, in adv."""
    targets = [{"filename": f"{n}.png", "label": n, "target": n + 1} for n in range(6)]
    write_labels(folder / "nat", targets)
    succeed(f"{ATTACK}ten --targeted", x=folder)
    return folder


def rate(out):
    (row,) = json.loads(out)
    ((_, target),) = row["targets"].items()
    return target["success"]["rate"]


def test_targeted_folder_without_run_json_is_targeted(succeed, targeted):
    command = "evaluate --input-dir {x}/adv --nat-dir {x}/nat --arch {x}/nets.py:ten --json"
    before, _ = succeed(command, x=targeted)
    (targeted / "adv" / "run.json").unlink()
    after, err = succeed(command, x=targeted)
    assert rate(after) == rate(before) < 100
    assert f"{targeted}/adv has no run.json: it counts as a targeted attack" in err


def selected(nat):
    text = (nat / "labels.csv").read_text().replace("filename", "source,filename")
    (nat / "labels.csv").write_text(text.replace("\n", "\na/b.jpg,").removesuffix("a/b.jpg,"))


def of_transferattack(nat):
    text = (nat / "labels.csv").read_text().replace("target", "targeted_label")
    (nat / "labels.csv").write_text(text)


@pytest.mark.parametrize("written", [selected, of_transferattack])
def test_targets_of_a_data_set_make_no_folder_targeted(succeed, targeted, written):
    written(targeted / "nat")
    out, err = succeed(f"{EVALUATE}ten --json", x=targeted)
    answers = answers_of(targeted, "ten")
    wrong = sum(answer != n for n, answer in enumerate(answers))
    assert rate(out) == pytest.approx(100 * wrong / 6)
    assert "it counts as an untargeted attack, although its images have targets" in err


def test_target_that_is_the_label_or_missing_is_refused_in_the_evaluation(run, targeted):
    command = "evaluate --input-dir {x}/adv --arch {x}/nets.py:ten"
    lines = (targeted / "adv" / "labels.csv").read_text().splitlines()
    for last, message in (("5.png,5,5", "its target class 5 is its label"), ("5.png,5,", "5.png")):
        (targeted / "adv" / "labels.csv").write_text("\n".join([*lines[:-1], last]))
        status, out, err = run(command, x=targeted)
        assert (status, out) == (1, "")
        assert message in err.splitlines()[-1]


def test_targeted_and_untargeted_successes_are_not_compared(run, targeted):
    assert run(f"{ATTACK}ten".replace("adv", "plain"), x=targeted)[0] == 0
    command = "evaluate --input-dir {x}/adv {x}/plain --baseline {x}/plain --arch {x}/nets.py:ten"
    status, out, err = run(command, x=targeted)
    assert (status, out) == (1, "")
    assert f"{targeted}/adv is targeted, but {targeted}/plain is not" in err.splitlines()[-1]
