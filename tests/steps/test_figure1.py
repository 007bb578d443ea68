"""scripts/figure1.py: gradients that take one way, and nine attacks with them, in its table."""

import csv
import itertools

import PIL.Image
import pytest
import torch
from conftest import input_gradient, labels_of
from one_way import OneWay
from small import label
from torch import nn

from suite.images.folders import list_images
from suite.images.pictures import read_batches, to_float
from suite.networks.classifier import load_model
from utils_sgm import register_hook_for_branches

NETWORKS = """
import torch
from torch import nn

class Three(nn.Module):
    input_size = 32

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 8, 3, 4), nn.Linear(8 * 64, 10)
        self.branches = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))

    def forward(self, pixels):
        features = self.stem(pixels)
        for branch in self.branches:
            features = features + torch.relu(4 * branch(features))
        return self.head(features.flatten(1))

def three(): return Three()
def twin(): return Three()
"""
FIGURE = "figure1 --input-dir {x}/nat --arch {x}/deep.py:three --targets {x}/deep.py:twin"


@pytest.fixture
def labelled(folder):
    """The images, with the labels that the network gives them; but for the last one."""
    (folder / "deep.py").write_text(NETWORKS)
    listed = list_images(folder / "nat")
    ((_, pixels),) = read_batches([listed])
    answers = load_model(f"{folder}/deep.py:three")(to_float(pixels)).argmax(1).tolist()
    label(folder / "nat", [*answers[:-1], (answers[-1] + 1) % 10])
    return folder


def test_figure_has_nine_ways_and_pairs_them_with_the_plain_attack(run, labelled):
    options = "--epsilon 1 --step-size 1 --num-steps 1 --output {x}/t.csv --plot {x}/p.png"
    status, out, err = run(f"{FIGURE} {options}", x=labelled)
    assert status == 0, err
    assert "5 of 6 images are classified correctly" in err
    with (labelled / "t.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["folder"] for row in rows][:3] == ["plain", "skip skip skip", "skip skip residual"]
    assert len(rows) == 9
    assert {row["images"] for row in rows} == {"5"}
    assert {row["baseline"] for row in rows} == {"", "plain"}
    source, target = (f"{labelled}/deep.py:{name}" for name in ("three", "twin"))
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
    assert run(f"{attack} {{x}}/deep.py:three", x=labelled)[0] == 0
    evaluation = "evaluate --input-dir {x}/adv --arch {x}/deep.py:twin"
    rate = run(evaluation, x=labelled)[1].splitlines()[-1].split("  ")[-1]
    (plain,) = [line for line in out.splitlines() if line.startswith("plain")]
    assert plain.endswith(rate)


def test_label_beyond_the_classes_of_a_network_is_refused(run, labelled):
    label(labelled / "nat", [0, 1, 2, 3, 4, 12])
    status, _, err = run(FIGURE, x=labelled)
    assert (status, "its label is 12, but" in err) == (1, True), err


def test_target_may_have_a_defence(run, labelled):
    options = "--num-steps 1 --step-size 1 --epsilon 1"
    command = FIGURE.replace("{x}/deep.py:twin", "bits:8+{x}/deep.py:twin")
    status, out, err = run(f"{command} {options}", x=labelled)
    assert status == 0, err
    assert "bits:8+" in out


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        ("--arch {x}/nets.py:ten", 1, "1 residual additions with an identity skip, and 3 are"),
        ("--plot {x}/p.svg", 2, "does not end in .png or .pdf"),
        ("--epsilon 0.1", 2, "rounds to nothing"),
        ("--arch bits:3+{x}/deep.py:three", 2, "has a defence, which only --targets may have"),
        ("--targets jpg+{x}/deep.py:twin", 2, "no defence is called 'jpg'"),
    ],
)
def test_what_is_wrong_is_said(run, labelled, command, status, message):
    found, _, err = run(f"{FIGURE} {command}", x=labelled)
    assert (found, message in err) == (status, True), err


class Products(nn.Module):
    """Logits (c * x, 0), c being the product of 1 + w of three residual modules w * z."""

    input_size = 1
    weights = (3.0, 5.0, 7.0)

    def __init__(self):
        super().__init__()
        self.scale = nn.Identity()

    def forward(self, pixels):
        for weight in self.weights:
            pixels = pixels + self.scale(weight * pixels)
        total = pixels.flatten(1).sum(1)
        return torch.stack([total, torch.zeros_like(total)], 1)


@pytest.mark.parametrize(
    "ways", [*itertools.product(("skip", "residual", "both"), repeat=3), ("skip",)]
)
def test_gradient_is_the_product_of_the_ways(ways):
    pixels = torch.rand(2, 3, 1, 1, requires_grad=True)
    logits = OneWay(Products().eval(), ways)(pixels)
    logits.sum().backward()
    expected = 1.0
    # Fewer ways than junctions are those of the last ones.
    for way, weight in zip(["both"] * (3 - len(ways)) + [*ways], Products.weights, strict=True):
        expected *= {"skip": 1, "residual": weight, "both": 1 + weight}[way]
    assert torch.equal(pixels.grad, torch.full_like(pixels, expected))
    assert torch.equal(logits, Products()(pixels))


class Block(nn.Module):
    """A block that scales its residual branch outside of any module, and runs twice."""

    def __init__(self, join):
        super().__init__()
        self.join = join
        self.f = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.gamma = nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, z):
        for _ in range(2):
            z = torch.relu(self.join(z, self.gamma * self.f(z)))
        return z


def classifier(join):
    torch.manual_seed(0)
    stem, head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(144, 5)
    network = nn.Sequential(stem, Block(join), nn.Flatten(), head)
    network.input_size = 6
    return network.double().eval().requires_grad_(False)


def add_in_place(skip, branch):
    branch += skip
    return branch


def add_by_a_statement(skip, branch):
    branch.add_(skip)
    return branch


TWINS = {"skip": lambda z, f: z + f.detach(), "residual": lambda z, f: z.detach() + f}
JOINS = [
    lambda z, f: z + f,
    lambda z, f: f + z,
    lambda z, f: torch.add(z, other=f),
    add_in_place,
    add_by_a_statement,
]


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize("way", TWINS)
def test_gradient_is_that_of_a_network_which_detaches(way, join):
    plain, oracle = classifier(join), classifier(TWINS[way])
    pixels = torch.rand(2, 3, 6, 6, dtype=torch.double)
    expected = input_gradient(oracle, pixels)
    assert not torch.allclose(input_gradient(plain, pixels), expected)
    torch.testing.assert_close(input_gradient(OneWay(plain, [way] * 2), pixels), expected)


def test_skip_connection_alone_is_gamma_0_of_the_branches():
    plain, scaled = classifier(JOINS[0]), classifier(JOINS[0])
    register_hook_for_branches(scaled, 0, (3, 6, 6), branches=r"1\.f")
    pixels = torch.rand(2, 3, 6, 6, dtype=torch.double)
    expected = input_gradient(scaled, pixels)
    torch.testing.assert_close(input_gradient(OneWay(plain, ["skip"] * 2), pixels), expected)


def test_dense_connections_are_refused():
    class Dense(Products):
        def forward(self, z):
            z = torch.cat([z, self.scale(2 * z)], 1)
            return torch.cat([z, self.scale(3 * z)], 1).mean((2, 3))

    with pytest.raises(ValueError, match="0 residual additions.*3 are needed .dense connections"):
        OneWay(Dense().eval(), ["skip"] * 3)


def test_network_that_adds_otherwise_than_before_is_refused():
    class Fickle(Products):
        def forward(self, pixels):
            return super().forward(pixels + pixels * 2 if pixels.shape[0] > 1 else pixels)

    network = OneWay(Fickle().eval(), ["skip"])
    with pytest.raises(ValueError, match="4 additions in one pass and 3 in another"):
        network(torch.rand(2, 3, 1, 1, requires_grad=True))
