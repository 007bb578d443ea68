"""scripts/figure1.py: nine attacks with gradients that take one way, in its table."""

import PIL.Image
import pytest
from conftest import labels_of, rows_of
from small import NETWORKS, answers_of, label

DEEP = """
class Three(Residual):
    def forward(self, pixels):
        features = self.stem(pixels)
        for _ in range(3):
            features = features + torch.relu(4 * self.branch(features))
        return self.head(features.flatten(1))

def three(): return Three()
def twin(): return Three()
"""
FIGURE = "figure1 --input-dir {x}/nat --arch {x}/nets.py:three --targets {x}/nets.py:twin"


@pytest.fixture
def labelled(folder):
    """The images, with the labels that the network gives them; but for the last one."""
    (folder / "nets.py").write_text(NETWORKS + DEEP)
    answers = answers_of(folder, "three")
    label(folder / "nat", [*answers[:-1], (answers[-1] + 1) % 10])
    return folder


def test_figure_has_nine_ways_and_pairs_them_with_the_plain_attack(run, labelled):
    options = "--epsilon 1 --step-size 1 --num-steps 1 --output {x}/t.csv --plot {x}/p.png"
    status, out, err = run(f"{FIGURE} {options}", x=labelled)
    assert status == 0, err
    assert "5 of 6 images are classified correctly" in err
    rows = rows_of(labelled / "t.csv")
    assert [row["folder"] for row in rows][:3] == ["plain", "skip skip skip", "skip skip residual"]
    assert len(rows) == 9
    assert {row["images"] for row in rows} == {"5"}
    assert {row["baseline"] for row in rows} == {"", "plain"}
    source, target = (f"{labelled}/nets.py:{name}" for name in ("three", "twin"))
    for row in rows:  # one network under two names: white-box and transfer are the same
        assert row[source] == row[target] != ""
    assert len({row[source] for row in rows}) > 1
    assert "skip residual skip" in out
    assert PIL.Image.open(labelled / "p.png").size[0] > 500


def test_plain_row_is_the_plain_attack(run, labelled):
    """As attack_iter.py and evaluate.py count it."""
    (labelled / "nat" / "5.png").unlink()
    label(labelled / "nat", list(labels_of(labelled / "nat").values())[:5])
    options = "--epsilon 2 --step-size 1 --num-steps 2"
    status, out, err = run(f"{FIGURE} {options}", x=labelled)
    assert status == 0, err
    attack = f"attack_iter --input-dir {{x}}/nat --output-dir {{x}}/adv {options} --arch"
    assert run(f"{attack} {{x}}/nets.py:three", x=labelled)[0] == 0
    evaluation = "evaluate --input-dir {x}/adv --arch {x}/nets.py:twin"
    rate = run(evaluation, x=labelled)[1].splitlines()[-1].split("  ")[-1]
    (plain,) = [line for line in out.splitlines() if line.startswith("plain")]
    assert plain.endswith(rate)


def test_label_beyond_the_classes_of_a_network_is_refused(run, labelled):
    label(labelled / "nat", [0, 1, 2, 3, 4, 12])
    status, _, err = run(FIGURE, x=labelled)
    assert (status, "its label is 12, but" in err) == (1, True), err


def test_target_may_have_a_defence(run, labelled):
    options = "--num-steps 1 --step-size 1 --epsilon 1"
    command = FIGURE.replace("{x}/nets.py:twin", "bits:8+{x}/nets.py:twin")
    status, out, err = run(f"{command} {options}", x=labelled)
    assert status == 0, err
    assert "bits:8+" in out


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("--arch {x}/nets.py:ten", 1, "1 residual additions with an identity skip, and 3 are"),
        ("--plot {x}/p.svg", 2, "does not end in .png or .pdf"),
        ("--epsilon 0.1", 2, "rounds to nothing"),
        ("--arch bits:3+{x}/nets.py:three", 2, "has a defence, which only --targets may have"),
        ("--targets jpg+{x}/nets.py:twin", 2, "no defence is called 'jpg'"),
    ],
)
def test_what_is_wrong_is_said(run, labelled, command, status, message):
    found, _, err = run(f"{FIGURE} {command}", x=labelled)
    assert (found, message in err) == (status, True), err
