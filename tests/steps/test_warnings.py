"""Warnings where a measurement would mislead."""

import PIL.Image
import pytest
import torch
from conftest import bytes_of, rows_of, run_json
from small import ATTACK

from suite.attack.loop import GradientAttack
from suite.networks.answer_checks import warn_of_probabilities

OWN = """
class Softmax(Residual):
    def forward(self, pixels): return super().forward(pixels).softmax(1)

class Sigmoid(Residual):
    def forward(self, pixels): return super().forward(pixels).sigmoid()

class Draws(Residual):
    def forward(self, pixels):
        features = torch.relu(self.stem(pixels) + self.branch(self.stem(pixels)))
        return 30 * self.head(nn.functional.dropout(features.flatten(1), 0.5))

class Normal(Residual):
    def forward(self, pixels):
        import numpy, random
        logits = super().forward(pixels)
        noise = torch.as_tensor(numpy.random.normal(size=logits.shape)).to(logits)
        return logits + random.random() * noise
"""


@pytest.fixture
def folder(folder):
    (folder / "nets.py").write_text((folder / "nets.py").read_text() + OWN)
    return folder


def test_probabilities_are_warned_of(caplog):
    logits = torch.randn(3, 10)
    warn_of_probabilities("net", logits)
    warn_of_probabilities("net", logits.log_softmax(1))
    assert not caplog.text
    for probabilities in (logits.softmax(1), logits.sigmoid()):
        caplog.clear()
        warn_of_probabilities("net", probabilities)
        assert "net seems to return probabilities" in caplog.text


@pytest.mark.parametrize("network", ["Softmax", "Sigmoid"])
@pytest.mark.parametrize(
    "others", ["", " {x}/nets.py:ten", " {x}/nets.py:ten --ensemble gradients"]
)
def test_source_that_returns_probabilities_is_named(succeed, folder, network, others):
    _, err = succeed(f"{ATTACK}{network}{others}", x=folder)
    assert f"{folder}/nets.py:{network} seems to return probabilities" in err
    assert err.count("seems to return") == 1


@pytest.mark.parametrize("network", ["Softmax", "Sigmoid"])
def test_target_that_returns_probabilities_is_named(succeed, folder, network):
    command = "evaluate --input-dir {x}/nat --arch {x}/nets.py:ten {x}/nets.py:"
    _, err = succeed(f"{command}{network}", x=folder)
    assert f"{folder}/nets.py:{network} seems to return probabilities" in err


DRAWS = "answers the same images differently in two passes: it draws random numbers"


@pytest.mark.parametrize("command", [ATTACK, "evaluate --input-dir {x}/nat --arch {x}/nets.py:"])
@pytest.mark.parametrize("network", ["Draws", "Normal", "ten"])
def test_network_that_draws_is_warned_of_by_the_right_name(succeed, folder, command, network):
    _, err = succeed(f"{command}{network}", x=folder)
    assert (f"{folder}/nets.py:{network} {DRAWS}" in err) == (network != "ten")
    assert "batch norm" not in err


@pytest.mark.parametrize("network", ["Draws", "Normal"])
def test_run_of_a_network_that_draws_is_repeatable_and_resumable(succeed, folder, network):
    attack = f"{ATTACK}{network} --gamma 1 --batch-size 2".replace("/adv", "/{to}")
    for to, seed in (("one", 0), ("two", 0), ("other", 1)):
        succeed(f"{attack} --seed {seed}", x=folder, to=to)
    whole = bytes_of(folder / "one")
    assert bytes_of(folder / "two") == whole
    assert bytes_of(folder / "other") != whole
    before = run_json(folder / "two")
    (folder / "two" / "2.png").unlink()
    succeed(attack, x=folder, to="two")
    assert bytes_of(folder / "two") == whole
    assert run_json(folder / "two") == before


def test_answers_of_a_network_that_draws_do_not_depend_on_other_targets(succeed, folder):
    command = "evaluate --input-dir {x}/nat --answers {x}/answers.csv --arch "
    found = {}
    for archs in ("Draws", "Normal Draws ten", "Draws Draws2", "Draws --seed 1"):
        names = archs.replace(" Draws2", " {x}/nets.py:Normal").split(" --")
        listed = " ".join(n if "{x}" in n else f"{{x}}/nets.py:{n}" for n in names[0].split())
        succeed(command + " --".join([listed, *names[1:]]), x=folder)
        rows = rows_of(folder / "answers.csv")
        found[archs] = [row[f"{folder}/nets.py:Draws probability"] for row in rows]
    assert found["Draws"] == found["Normal Draws ten"] == found["Draws Draws2"]
    assert found["Draws"] != found["Draws --seed 1"]


def test_hooks_without_effect_are_found_in_a_network_that_draws(run, folder):
    text = "        return nn.functional.dropout(super().forward(pixels), 0.1)\n"
    text = f"\nclass Off(Compiled):\n    def forward(self, pixels):\n{text}"
    (folder / "nets.py").write_text((folder / "nets.py").read_text() + text)
    status, _, err = run(f"{ATTACK}Off --gamma 0.5 --branches inner.branch", x=folder)
    assert (status, "as it is: its 1 hooks don't run" in err) == (1, True), err


def test_gradients_that_are_not_finite_are_refused_by_name(run, folder, monkeypatch):
    original = GradientAttack.run

    def broken(*args):
        pixels = original(*args)
        pixels[1, 0, 3, 3] = torch.nan
        return pixels

    monkeypatch.setattr(GradientAttack, "run", broken)
    status, _, err = run(f"{ATTACK}ten", x=folder)
    assert (status, "the gradient is not finite at 1 images: 1.png" in err) == (1, True)
    assert not list((folder / "adv").glob("*.png"))


EVALUATE = "evaluate --input-dir {x}/adv --arch {x}/nets.py:"


def test_evaluation_on_the_source_and_jpegs_are_warned_of(succeed, folder):
    succeed(f"{ATTACK}ten", x=folder)
    for file in (folder / "adv").glob("*.png"):
        PIL.Image.open(file).resize((50, 40)).save(file, "JPEG")
    _, err = succeed(f"{EVALUATE}ten", x=folder)
    assert f"was crafted on {folder}/nets.py:ten: white-box, no transfer" in err
    assert "is a JPEG: it washes perturbations out" in err
    assert "has the size (50, 40), but was written as [32, 32]" in err


def test_evaluation_on_any_source_of_an_ensemble_is_warned_of(succeed, folder):
    succeed(f"{ATTACK}ten {{x}}/nets.py:of_batch --ensemble gradients", x=folder)
    _, err = succeed(f"{EVALUATE}of_batch", x=folder)
    assert f"was crafted on {folder}/nets.py:of_batch: white-box, no transfer" in err
