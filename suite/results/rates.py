"""Rates in percent and their intervals, from the counts of folders.

A result is what evaluate.py counts in one folder: folder, repeat (equal in folders that differ in
the seed alone), source, attack, gamma, epsilon, num_steps, images, largest_perturbation, and for
each of the targets the numbers of images: succeeded, correct (when natural), succeeded_on_correct.
What needs natural images is absent without them; quality, see visibility.py, is there if it was
asked for.
"""

import statistics


def merge_repeats(results: list[dict]) -> list[dict]:
    """Return a row per setting, with the rates of each target.

    A rate is a dict: `rate`; `std`, the standard deviation over the runs, if there are several;
    `low` and `high`, the 95 % Wilson interval, if there is one.
    """
    groups = {}
    for result in results:
        groups.setdefault(result["repeat"], []).append(result)
    rows = []
    for group in groups.values():
        first = group[0]
        keys = ("source", "attack", "gamma", "epsilon", "num_steps", "images")
        row = {key: first[key] for key in keys}
        row["runs"] = len(group)
        if "largest_perturbation" in first:
            row["largest_perturbation"] = max(r["largest_perturbation"] for r in group)
        if "quality" in first:
            row["quality"] = {
                what: statistics.fmean(values) if None not in values else None
                for what in first["quality"]
                for values in [[r["quality"][what] for r in group]]
            }
        targets = {
            arch: _rates([r["targets"][arch] | {"images": r["images"]} for r in group])
            for arch in first["targets"]
        }
        rows.append({"folders": [r["folder"] for r in group], **row, "targets": targets})
    return rows


def _rates(counts: list[dict]) -> dict:
    rates = {"success": _rate([(c["succeeded"], c["images"]) for c in counts])}
    if "correct" in counts[0]:
        on_correct = [(c["succeeded_on_correct"], c["correct"]) for c in counts]
        rates["success_on_correct"] = _rate(on_correct)
        rates["natural_accuracy"] = _rate([(counts[0]["correct"], counts[0]["images"])])
    return rates


def _rate(counts: list[tuple[int, int]]) -> dict:
    counts = [(part, whole) for part, whole in counts if whole]
    if not counts:
        return {"rate": None}
    rates = [100 * part / whole for part, whole in counts]
    if len(rates) > 1:
        return {"rate": statistics.mean(rates), "std": statistics.stdev(rates)}
    low, high = interval(*counts[0])
    return {"rate": rates[0], "low": low, "high": high}


def interval(part: int, whole: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a proportion, in percent."""
    from scipy.stats import binomtest

    found = binomtest(part, whole).proportion_ci(method="wilson")
    return 100 * found.low, 100 * found.high
