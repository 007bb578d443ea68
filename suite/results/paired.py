"""Two attacks on the same images, compared image by image.

How easy an image is decides about both attacks' success on it, so that overlapping intervals of
their rates say little: what counts are the images on which only one of the attacks succeeds.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import optimize, stats

from suite.results.result_checks import repeat_of

logger = logging.getLogger(__name__)

NO_EFFECT = ("gamma", "hooks", "branches")  # settings without an effect where gamma is 1
RESAMPLING = {"n_resamples": 9999, "batch": 100, "rng": 0}


def find_baselines(given: str, made: dict[Path, dict]) -> dict[Path, Path]:
    """Return the baseline of each folder that has one.

    Args:
        given: one of the folders, with which all others are compared; or "auto": each folder is
            compared with the one of gamma 1 that differs in gamma alone. The random seed, and the
            hooks and branches, which have no effect there, may differ as well.
        made: run.json by folder, empty where there is none.

    Raises:
        ValueError: no folder is compared with the one that is given.
    """
    if given == "auto":
        settings = {f: repeat_of(f, run, NO_EFFECT) for f, run in made.items()}
        plain = {settings[f]: f for f in reversed(made) if made[f].get("gamma") == 1}
        found = {f: plain.get(settings[f]) for f, run in made.items() if run.get("gamma") != 1}
        found = {folder: baseline for folder, baseline in found.items() if baseline}
    else:
        settings = {f: repeat_of(f, run) for f, run in made.items()}
        found = {f: Path(given) for f in made if settings[f] != settings[Path(given)]}
    if not found and given != "auto":
        raise ValueError(f"--baseline {given}: there is no other folder to compare with it")
    if not found:
        logger.warning(
            "nothing to compare: no folder of gamma 1 differs from another one in gamma alone"
        )
    return found


def compare_with_baselines(
    rows: list[dict], fooled: dict[Path, dict[str, dict[str, bool]]], baselines: dict[Path, Path]
) -> None:
    """Add `baseline` to the rows that have one, and to their targets the `difference`.

    Args:
        fooled: what `transfer.successes` returns, by folder and target.
        baselines: by folder; the comparison is with all repeats of a baseline.
    """
    repeats = {folder: row["folders"] for row in rows for folder in row["folders"]}
    for row in rows:
        baseline = baselines.get(Path(row["folders"][0]))
        if baseline:
            row["baseline"] = str(baseline)
            compared = row["folders"], repeats[row["baseline"]]
            for arch, target in row["targets"].items():
                successes = ([fooled[Path(f)][arch] for f in folders] for folders in compared)
                target["difference"] = difference(*successes)


def difference(ours: Sequence[dict[str, bool]], theirs: Sequence[dict[str, bool]]) -> dict:
    """Compare two attacks' successes, by image name, in one run each or in several.

    With one run each, the interval is Tango's score interval for the difference of paired
    proportions (Statistics in Medicine 17, 1998, 891-908), and p is that of McNemar's exact test.
    With several, the image is the unit: its difference is that of its mean successes, the interval
    has the percentiles over resampled images, and p comes from flipping the signs of the images'
    differences, which for one run each is McNemar's test.

    Returns:
        `points`, the difference in percent; `low` and `high`, its 95 % interval; `images`, how many
        all runs share; `won` and `lost`, those where ours succeeds more or less often; `p`,
        two-sided.
    """
    names = sorted(set.intersection(*map(set, [*ours, *theirs])))
    changes = np.subtract(
        *(np.mean([[run[n] for n in names] for run in runs], axis=0) for runs in (ours, theirs))
    )
    won, lost = int((changes > 0).sum()), int((changes < 0).sum())
    if len(ours) == len(theirs) == 1:
        low, high = paired_interval(won, lost, len(names))
        p = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    else:
        low, high = -1.0, 1.0  # all that one image can say, which can't be resampled
        if len(names) > 1:
            found = stats.bootstrap((changes,), np.mean, method="percentile", **RESAMPLING)
            low, high = found.confidence_interval
        p, changed = 1.0, changes[changes != 0]
        if len(changed) > 1:
            flipped = {"permutation_type": "samples", "vectorized": True} | RESAMPLING
            p = stats.permutation_test((changed,), np.mean, **flipped).pvalue
    return {
        "points": 100 * float(changes.mean()),
        "low": 100 * float(low),
        "high": 100 * float(high),
        "images": len(names),
        "won": won,
        "lost": lost,
        "p": float(p),
    }


def paired_interval(won: int, lost: int, images: int) -> tuple[float, float]:
    """Return the 95 % interval of a difference of paired proportions, by Tango's score.

    At its ends d, the score (won - lost - images * d) / sqrt(variance) is the normal quantile; the
    variance is that of the likeliest proportions that differ by d.
    """
    quantile = stats.norm.ppf(0.975)

    def score(d: float) -> float:
        b = (2 * images - won + lost) * d - won - lost
        c = -lost * d * (1 - d)
        likeliest = (math.sqrt(b * b - 8 * images * c) - b) / (4 * images)
        variance = images * (2 * likeliest + d * (1 - d))
        return (won - lost - images * d) / math.sqrt(variance)

    estimate, edge = (won - lost) / images, 1 - 1e-9
    low = high = estimate
    if estimate > -edge:
        low = optimize.brentq(lambda d: score(d) - quantile, -edge, estimate - 1e-12)
    if estimate < edge:
        high = optimize.brentq(lambda d: score(d) + quantile, estimate + 1e-12, edge)
    return low, high
