"""--gamma auto, and gamma 0."""

import json

import pytest
from conftest import pixels_of
from small import ATTACK, folder

from suite.attack.gammas import PUBLISHED, PublishedGamma

__all__ = ["folder"]


@pytest.fixture
def published(folder, monkeypatch):
    monkeypatch.setitem(PUBLISHED, f"{folder}/nets.py:ten", PublishedGamma(0.2, 0.7, "a paper"))
    return folder


def run_json(folder):
    return json.loads((folder / "adv" / "run.json").read_text())


def test_auto_is_the_published_gamma_and_the_log_says_whose(run, published):
    status, out, err = run(f"{ATTACK}ten --gamma 0.2", x=published)
    assert status == 0, err
    expected = pixels_of(published / "adv")
    status, out, err = run(f"{ATTACK}ten --gamma auto --overwrite", x=published)
    assert status == 0, err
    assert "gamma 0.2" in out
    assert "nets.py:ten: --gamma auto is 0.2 for several steps (a paper)" in err
    made = run_json(published)
    assert (made["options"]["gamma"], made["gamma"]) == (["auto"], 0.2)
    assert made["gamma_from"] == ["a paper"]
    found = pixels_of(published / "adv")
    assert all((found[name] == expected[name]).all() for name in expected)


def test_auto_of_one_step_is_the_gamma_of_one_step(run, published):
    command = f"{ATTACK}ten --gamma auto".replace("--num-steps 2", "--num-steps 1")
    assert run(command, x=published)[0] == 0
    assert run_json(published)["gamma"] == 0.7


def test_auto_of_an_unknown_network_is_one_half(run, folder):
    _, out, err = run(f"{ATTACK}ten --gamma auto", x=folder)
    assert "gamma 0.5" in out
    assert "(nothing is published)" in err


def test_sources_of_an_ensemble_have_their_own(run, published):
    command = f"{ATTACK}ten {{x}}/nets.py:of_batch --gamma auto"
    assert run(command, x=published)[0] == 0
    assert run_json(published)["gamma"] == [0.2, 0.5]


def test_folder_of_the_same_gamma_is_resumed_and_of_another_is_not(run, published, monkeypatch):
    """As one of an earlier version, which had the number given, or another one in its table."""
    assert run(f"{ATTACK}ten --gamma 0.2", x=published)[0] == 0
    (published / "adv" / "3.png").unlink()
    status, _, err = run(f"{ATTACK}ten --gamma auto", x=published)
    assert status == 0, err
    monkeypatch.setitem(PUBLISHED, f"{published}/nets.py:ten", PublishedGamma(0.3, None, "another"))
    status, _, err = run(f"{ATTACK}ten --gamma auto", x=published)
    assert (status, "gamma [0.2] there and [0.3] here" in err) == (1, True)


def test_auto_is_compared_with_gamma_1(run, published):
    assert run(f"{ATTACK}ten --gamma 1".replace("adv", "plain"), x=published)[0] == 0
    assert run(f"{ATTACK}ten --gamma auto", x=published)[0] == 0
    command = (
        "evaluate --input-dir {x}/plain {x}/adv --arch {x}/nets.py:ten --baseline auto --json "
        "--plot {x}/p.png"
    )
    status, out, err = run(command, x=published)
    assert status == 0, err
    rows = json.loads(out)
    assert [(row["gamma"], row.get("baseline")) for row in rows] == [
        (1, None),
        (0.2, f"{published}/plain"),
    ]


def test_gamma_0_goes_with_a_part_of_the_branches_only(run, folder):
    status, _, err = run(f"{ATTACK}ten --gamma 0", x=folder)
    assert (status, "--gamma 0 cuts off what it scales: it needs --branches" in err) == (2, True)
    status, _, err = run(f"{ATTACK}ten --gamma 0 --branches branch", x=folder)
    assert status == 0, err
    assert run_json(folder)["gamma"] == 0


def test_gamma_0_that_cuts_all_of_the_gradient_is_refused(run, folder):
    status, _, err = run(f"{ATTACK}ten --gamma 0 --branches stem", x=folder)
    assert (status, "gamma 0 leaves no gradient of" in err) == (1, True)
