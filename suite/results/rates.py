"""Rates in percent and their intervals, from the counts of folders.

A result is what evaluate.py counts in one folder: `folder`, `repeat` (equal in folders that differ
in the random seed alone), `source`, `attack`, `gamma`, `epsilon`, `num_steps`, `images`, and
`targets`, which has for each target the number of images that `succeeded`. With natural images it
also has `largest_perturbation`, and for each target how many are `correct` when natural, and how
many of those `succeeded_on_correct`; with --quality it has `quality`, see visibility.py.
"""

import statistics

from scipy.stats import binomtest

SAME = ("source", "attack", "gamma", "epsilon", "num_steps", "images")


def merge_repeats(results: list[dict]) -> list[dict]:
    """Return a row for each setting, with the rates of each target.

    A rate is a dict that has the `rate` and, of several runs, their standard deviation `std`, of a
    single one the ends `low` and `high` of the 95 % Wilson interval.
    """
    repeats = {}
    for result in results:
        repeats.setdefault(result["repeat"], []).append(result)
    rows = []
    for runs in repeats.values():
        first = runs[0]
        row = {"folders": [run["folder"] for run in runs]}
        row |= {key: first[key] for key in SAME} | {"runs": len(runs)}
        if "largest_perturbation" in first:
            row["largest_perturbation"] = max(run["largest_perturbation"] for run in runs)
        if "quality" in first:
            row["quality"] = {}
            for what in first["quality"]:
                values = [run["quality"][what] for run in runs]
                row["quality"][what] = None if None in values else statistics.fmean(values)
        row["targets"] = {}
        for arch in first["targets"]:
            counts = [run["targets"][arch] | {"images": run["images"]} for run in runs]
            rates = {"success": _rate(counts, "succeeded", "images")}
            if "correct" in counts[0]:
                rates["success_on_correct"] = _rate(counts, "succeeded_on_correct", "correct")
                rates["natural_accuracy"] = _rate(counts[:1], "correct", "images")
            row["targets"][arch] = rates
        rows.append(row)
    return rows


def _rate(counts: list[dict], part: str, whole: str) -> dict:
    counts = [(count[part], count[whole]) for count in counts if count[whole]]
    if not counts:
        return {"rate": None}
    rates = [100 * part / whole for part, whole in counts]
    if len(rates) > 1:
        return {"rate": statistics.mean(rates), "std": statistics.stdev(rates)}
    low, high = interval(*counts[0])
    return {"rate": rates[0], "low": low, "high": high}


def interval(part: int, whole: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a proportion, in percent."""
    found = binomtest(part, whole).proportion_ci(method="wilson")
    return 100 * found.low, 100 * found.high
