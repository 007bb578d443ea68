"""Comparisons of two attacks on the same images."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from suite.results import paired

NAMES = [f"{n}.png" for n in range(21)]


def successes(*won):
    """Return a run's successes: those on the images of these numbers."""
    return {name: n in won for n, name in enumerate(NAMES)}


def test_interval_is_tangos_published_example():
    """Airway reactivity before and after transplantation, n = 21: 1 and 7 discordant pairs.

    Fagerland, Lydersen and Laake (BMC Medical Research Methodology 14, 2014) give the interval.
    """
    low, high = paired.paired_interval(1, 7, 21)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (21, 0), (0, 21), (1, 0), (20, 1), (10, 11)])
def test_interval_holds_the_difference_and_mirrors(won, lost):
    low, high = paired.paired_interval(won, lost, 21)
    assert -1 <= low <= (won - lost) / 21 <= high <= 1
    assert low < high
    assert paired.paired_interval(lost, won, 21) == pytest.approx((-high, -low), abs=1e-6)


def test_p_of_one_run_each_is_mcnemars_exact():
    found = paired.difference([successes(0)], [successes(*range(1, 8))])
    assert (found["won"], found["lost"], found["images"]) == (1, 7, 21)
    assert found["points"] == pytest.approx(-100 * 6 / 21)
    below = sum(math.comb(8, k) for k in range(2))
    assert found["p"] == pytest.approx(2 * below / 2**8)  # 0.070, as published


def test_equal_successes_give_nothing_to_tell_apart():
    found = paired.difference([successes(1, 2)], [successes(1, 2)])
    assert (found["points"], found["won"], found["lost"], found["p"]) == (0, 0, 0, 1)
    assert found["low"] == pytest.approx(-found["high"])


def test_of_several_runs_the_image_is_the_unit():
    """Twice the same seeds' results are no more images."""
    ours, theirs = successes(*range(9)), successes(*range(4, 6))
    once, twice = (paired.difference([ours] * n, [theirs] * 2) for n in (1, 2))
    assert once == twice
    assert (once["points"], once["images"]) == (pytest.approx(100 * 7 / 21), 21)
    assert (once["won"], once["lost"]) == (7, 0)


def test_p_of_several_runs_is_that_of_all_signs():
    ours = [successes(0, 1, 2, 3, 4), successes(0, 1, 2, 5, 6)]
    found = paired.difference(ours, [successes(6, 7)])
    changes = [1, 1, 1, 0.5, 0.5, 0.5, -0.5, -1]
    sums = [
        sum(sign * abs(change) for sign, change in zip(signs, changes, strict=True))
        for signs in itertools.product((1, -1), repeat=len(changes))
    ]
    extreme = sum(abs(total) >= abs(sum(changes)) for total in sums)
    assert found["p"] == pytest.approx(extreme / len(sums))
    assert (found["won"], found["lost"]) == (6, 2)


def test_interval_of_several_runs_covers_as_the_normal_one():
    noise = np.random.default_rng(0)
    runs = [
        {f"{n}": bool(hit) for n, hit in enumerate(noise.random(2000) < rate)}
        for rate in (0.8, 0.8, 0.7)
    ]
    found = paired.difference(runs[:2], runs[2:])
    changes = np.array([(runs[0][n] + runs[1][n]) / 2 - runs[2][n] for n in runs[0]])
    half = 1.96 * changes.std() / math.sqrt(len(changes))
    assert found["low"] == pytest.approx(100 * (changes.mean() - half), abs=0.3)
    assert found["high"] == pytest.approx(100 * (changes.mean() + half), abs=0.3)


def test_only_images_of_both_count():
    few = dict.fromkeys(NAMES[:5], True)
    found = paired.difference([few], [successes(0)])
    assert (found["images"], found["won"], found["lost"]) == (5, 4, 0)


def made(**gammas):
    """Return a run.json by folder, whose seed is the last letter of its name."""
    runs = {}
    for name, gamma in gammas.items():
        options = {"gamma": [gamma], "seed": name[-1], "momentum": name[:2] == "mi"}
        runs[Path(name)] = {"gamma": gamma, "options": options}
    return runs


def test_auto_finds_the_folder_of_gamma_1_that_differs_in_gamma_alone():
    folders = made(pgd1=1.0, pgd5=0.5, pgd5b=0.5, mi2=0.2, mi1=1.0, mi1b=1.0)
    found = paired.find_baselines("auto", folders)
    expected = {"pgd5": "pgd1", "pgd5b": "pgd1", "mi2": "mi1"}
    assert found == {Path(name): Path(other) for name, other in expected.items()}


def test_hooks_of_the_plain_attack_do_not_matter():
    folders = made(plain=1.0, sgm=0.5)
    folders[Path("sgm")]["options"] |= {"hooks": "branch", "branches": "layer.*"}
    assert paired.find_baselines("auto", folders) == {Path("sgm"): Path("plain")}


def test_named_baseline_is_compared_with_all_but_its_repeats():
    folders = made(a=0.5, b=0.5, c=1.0)
    assert paired.find_baselines("a", folders) == {Path("c"): Path("a")}


def test_auto_without_a_pair_compares_nothing_and_says_so(caplog):
    assert paired.find_baselines("auto", made(pgd5=0.5, mi1=1.0)) == {}
    assert "nothing to compare: no folder of gamma 1" in caplog.text


def test_several_runs_on_one_image_have_the_whole_range():
    found = paired.difference([{"0.png": True}] * 2, [{"0.png": False}])
    assert (found["points"], found["images"], found["p"]) == (100, 1, 1)
    assert (found["low"], found["high"]) == (-100, 100)
