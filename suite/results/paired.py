"""Two attacks on the same images, compared image by image.

Both successes of an image depend on how easy it is, so that two intervals which overlap say little:
what counts are the images that one attack won and the other lost.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from suite.results.result_checks import repeat_of

AT_PLAIN = ("gamma", "hooks", "branches")  # settings that do nothing where gamma is 1
RESAMPLES = 9999


def find_baselines(given: str, made: dict[Path, dict]) -> dict[Path, Path]:
    """Return by folder the one that it is compared with, for the folders that have one.

    Args:
        given: one of the folders, with which all others are compared, or "auto": for each folder
            the one of gamma 1 that differs in gamma (or, which then does nothing, in hooks or
            branches) and the seed alone.
        made: run.json by folder, empty where there is none.

    Raises:
        ValueError: no folder has a baseline.
    """
    if given != "auto":
        baseline = Path(given)
        repeat = repeat_of(baseline, made[baseline])
        found = {f: baseline for f, run in made.items() if repeat_of(f, run) != repeat}
    else:
        repeats = {f: repeat_of(f, run, AT_PLAIN) for f, run in made.items()}
        plain = {repeats[f]: f for f in reversed(made) if _is_plain(made[f].get("gamma"))}
        found = {
            folder: plain[repeat]
            for folder, repeat in repeats.items()
            if repeat in plain and not _is_plain(made[folder].get("gamma"))
        }
    if not found:
        raise ValueError(
            f"--baseline {given}: nothing to compare with it (auto needs, of two folders that "
            "differ in gamma alone, one of gamma 1)"
        )
    return found


def _is_plain(gamma: float | list[float] | None) -> bool:
    return set(gamma if isinstance(gamma, list) else [gamma]) == {1}


def compare_with_baselines(
    rows: list[dict],
    fooled: dict[Path, dict[str, dict[str, bool]]],
    baselines: dict[Path, Path],
) -> None:
    """Add to rows that have a baseline its folder, and to their targets the `difference`.

    Args:
        rows: of `rates.merge_repeats`.
        fooled: by folder and target, of `transfer.successes`.
        baselines: of the function of that name.
    """
    repeats = {folder: row["folders"] for row in rows for folder in row["folders"]}
    for row in rows:
        baseline = baselines.get(Path(row["folders"][0]))
        if baseline is None:
            continue
        row["baseline"] = str(baseline)
        for arch, rates in row["targets"].items():
            ours, theirs = (
                [fooled[Path(folder)][arch] for folder in folders]
                for folders in (row["folders"], repeats[str(baseline)])
            )
            rates["difference"] = difference(ours, theirs)


def difference(ours: Sequence[dict[str, bool]], theirs: Sequence[dict[str, bool]]) -> dict:
    """Compare two attacks' successes, by image name, in one run each or in several.

    Of one run each, the interval is Tango's score interval for the difference of paired proportions
    (Statistics in Medicine 17, 1998, 891-908), and p is McNemar's exact test. Of several, the image
    is the unit: its difference is that of its mean successes, the interval is the percentiles of
    resampled images, and p comes from flipping the signs of the images' differences, which for one
    run each is McNemar's test.

    Returns:
        `points`, the difference in percent; `low` and `high`, its 95 % interval; `images`, in all
        runs; `won` and `lost`, those where ours succeeds more or less often; `p`, two-sided.
    """
    names = sorted(set.intersection(*map(set, [*ours, *theirs])))
    mean_ours, mean_theirs = (
        np.mean([[run[name] for name in names] for run in runs], axis=0) for runs in (ours, theirs)
    )
    changes = mean_ours - mean_theirs
    won, lost = int((changes > 0).sum()), int((changes < 0).sum())
    if len(ours) == len(theirs) == 1:
        low, high = paired_interval(won, lost, len(names))
        p = _mcnemar(won, lost)
    else:
        low, high = _resampled(changes)
        p = _flipped(changes)
    return {
        "points": 100 * float(changes.mean()),
        "low": 100 * low,
        "high": 100 * high,
        "images": len(names),
        "won": won,
        "lost": lost,
        "p": p,
    }


def paired_interval(won: int, lost: int, images: int) -> tuple[float, float]:
    """Return the 95 % interval of a difference of paired proportions, by Tango's score.

    Its ends are the differences d at which the score (won - lost - images * d) / sqrt(variance)
    is the normal quantile, the variance being that of the likeliest proportions with difference d.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    quantile = norm.ppf(0.975)

    def score(d: float) -> float:
        b = (2 * images - won + lost) * d - won - lost
        c = -lost * d * (1 - d)
        likeliest = (math.sqrt(b * b - 8 * images * c) - b) / (4 * images)
        variance = images * (2 * likeliest + d * (1 - d))
        return (won - lost - images * d) / math.sqrt(variance)

    estimate, edge = (won - lost) / images, 1 - 1e-9
    low = high = estimate
    if estimate > -edge:
        low = brentq(lambda d: score(d) - quantile, -edge, estimate - 1e-12)
    if estimate < edge:
        high = brentq(lambda d: score(d) + quantile, estimate + 1e-12, edge)
    return low, high


def _mcnemar(won: int, lost: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(won, won + lost).pvalue) if won + lost else 1.0


def _resampled(changes: np.ndarray) -> tuple[float, float]:
    from scipy.stats import bootstrap

    found = bootstrap(
        (changes,), np.mean, n_resamples=RESAMPLES, batch=100, method="percentile", rng=0
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _flipped(changes: np.ndarray) -> float:
    from scipy.stats import permutation_test

    changed = changes[changes != 0]
    if len(changed) < 2:
        return 1.0
    found = permutation_test(
        (changed,),
        lambda values, axis: np.mean(values, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=100,
        rng=0,
    )
    return float(found.pvalue)
