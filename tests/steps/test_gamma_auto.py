"""--gamma auto, and gamma 0."""

import json

import pytest
from conftest import bytes_of, run_json
from small import ATTACK

from suite.attack.gammas import PUBLISHED, PublishedGamma


@pytest.fixture
def published(folder, monkeypatch):
    monkeypatch.setitem(PUBLISHED, f"{folder}/nets.py:ten", PublishedGamma(0.2, 0.7, "a paper"))
    return folder


def test_auto_is_the_published_gamma_and_the_log_says_whose(succeed, published):
    succeed(f"{ATTACK}ten --gamma 0.2", x=published)
    expected = bytes_of(published / "adv")
    out, err = succeed(f"{ATTACK}ten --gamma auto --overwrite", x=published)
    assert "gamma 0.2" in out
    assert "nets.py:ten: --gamma auto is 0.2 for several steps (a paper)" in err
    made = run_json(published / "adv")
    assert (made["options"]["gamma"], made["gamma"]) == (["auto"], 0.2)
    assert made["gamma_from"] == ["a paper"]
    assert bytes_of(published / "adv") == expected


@pytest.mark.parametrize(
    ("options", "gamma"),
    [("ten --num-steps 1", 0.7), ("ten {x}/nets.py:of_batch", [0.2, 0.5])],
)
def test_auto_is_that_of_the_number_of_steps_and_of_each_source(succeed, published, options, gamma):
    succeed(f"{ATTACK}{options} --gamma auto", x=published)
    assert run_json(published / "adv")["gamma"] == gamma


def test_auto_of_an_unknown_network_is_one_half(succeed, folder):
    out, err = succeed(f"{ATTACK}ten --gamma auto", x=folder)
    assert "gamma 0.5" in out
    assert "(nothing is published)" in err


def test_folder_of_the_same_gamma_is_resumed_and_of_another_is_not(
    run, succeed, published, monkeypatch
):
    """As one of an earlier version, which had the number given, or another one in its table."""
    succeed(f"{ATTACK}ten --gamma 0.2", x=published)
    (published / "adv" / "3.png").unlink()
    succeed(f"{ATTACK}ten --gamma auto", x=published)
    monkeypatch.setitem(PUBLISHED, f"{published}/nets.py:ten", PublishedGamma(0.3, None, "another"))
    status, _, err = run(f"{ATTACK}ten --gamma auto", x=published)
    assert (status, "gamma [0.2] there and [0.3] here" in err) == (1, True)


def test_auto_is_compared_with_gamma_1(succeed, published):
    succeed(f"{ATTACK}ten --gamma 1".replace("adv", "plain"), x=published)
    succeed(f"{ATTACK}ten --gamma auto", x=published)
    command = "evaluate --input-dir {x}/plain {x}/adv --arch {x}/nets.py:ten --baseline auto --json"
    out, _ = succeed(f"{command} --plot {{x}}/p.png", x=published)
    found = [(row["gamma"], row.get("baseline")) for row in json.loads(out)]
    assert found == [(1, None), (0.2, f"{published}/plain")]


def test_gamma_0_goes_with_branches_unless_it_cuts_all_of_the_gradient(run, succeed, folder):
    """Without --branches it is wrong use, as test_wrong_use.py asserts."""
    succeed(f"{ATTACK}ten --gamma 0 --branches branch", x=folder)
    assert run_json(folder / "adv")["gamma"] == 0
    status, _, err = run(f"{ATTACK}ten --gamma 0 --branches stem --overwrite", x=folder)
    assert (status, "gamma 0 leaves no gradient of" in err) == (1, True)
