"""Tables of the results that evaluate.py computes, as text, Markdown, CSV and JSON.

A result is what evaluate.py counts in one folder: folder, repeat (equal in folders that differ in
the seed alone), source, attack, gamma, epsilon, images, largest_perturbation, and for each of the
targets the numbers of images: succeeded, correct (when natural), succeeded_on_correct. What needs
natural images is absent without them. Rates are in percent.
"""

import csv
import io
import json
import statistics
from collections.abc import Iterator
from pathlib import Path

from suite.images import whole_file


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
        row = {key: first[key] for key in ("source", "attack", "gamma", "epsilon", "images")}
        row["runs"] = len(group)
        if "largest_perturbation" in first:
            row["largest_perturbation"] = max(r["largest_perturbation"] for r in group)
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
    from scipy.stats import binomtest

    interval = binomtest(*counts[0]).proportion_ci(method="wilson")
    return {"rate": rates[0], "low": 100 * interval.low, "high": 100 * interval.high}


def text(rows: list[dict]) -> str:
    """Return the rows as tables for a terminal: a line per setting, a column per target."""
    return "\n\n".join(f"{title}\n{_aligned(lines)}" for title, lines in _tables(rows))


def markdown(rows: list[dict]) -> str:
    """Return the rows as Markdown tables."""
    parts = []
    for title, (header, *lines) in _tables(rows):
        rule = ["---"] * len(header)
        table = "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))
        parts.append(f"{title}\n\n{table}\n")
    return "\n".join(parts)


def _tables(rows: list[dict]) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield titles and tables, whose first line is the header."""
    archs = list(rows[0]["targets"])
    settings = [_settings(row) for row in rows]

    def table(rate):
        cells = [[_cell(row["targets"][arch][rate]) for arch in archs] for row in rows]
        lines = [[*s.values(), *c] for s, c in zip(settings, cells, strict=True)]
        return [[*settings[0], *archs], *lines]

    yield (
        "Success in %, with the 95 % interval or the standard deviation over runs",
        table("success"),
    )
    if "largest_perturbation" in rows[0]:
        title = "Success in % among the images that the target classifies correctly when natural"
        yield title, table("success_on_correct")
        accuracies = [
            [
                str(r["images"]),
                *(f"{r['targets'][a]['natural_accuracy']['rate']:.1f}" for a in archs),
            ]
            for r in rows
        ]
        distinct = [line for n, line in enumerate(accuracies) if line not in accuracies[:n]]
        yield "Accuracy on the natural images in %", [["images", *archs], *distinct]


def _settings(row: dict) -> dict[str, str]:
    more = f" +{row['runs'] - 1}" if row["runs"] > 1 else ""
    settings = {
        "folder": row["folders"][0] + more,
        "source": row["source"] or "-",
        "attack": row["attack"] or "-",
        "gamma": gamma_text(row["gamma"]),
        "images": str(row["images"]),
    }
    if "largest_perturbation" in row:
        settings["largest"] = f"{row['largest_perturbation']}/255"
    return settings


def gamma_text(gamma: float | list[float] | None) -> str:
    if gamma is None:
        return "-"
    return " ".join(f"{g:g}" for g in (gamma if isinstance(gamma, list) else [gamma]))


def _cell(rate: dict) -> str:
    if rate["rate"] is None:
        return "-"
    if "std" in rate:
        return f"{rate['rate']:.1f} ± {rate['std']:.1f}"
    return f"{rate['rate']:.1f} [{rate['low']:.0f}, {rate['high']:.0f}]"


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)


def csv_text(rows: list[dict]) -> str:
    """Return the rows as CSV: a line per setting, and of each target a column per number."""
    lines = []
    for row in rows:
        line = {key: value for key, value in row.items() if key not in ("folders", "targets")}
        line = {"folder": " ".join(row["folders"])} | line | {"gamma": gamma_text(row["gamma"])}
        for arch, rates in row["targets"].items():
            line[arch] = rates["success"]["rate"]
            for number in ("std", "low", "high"):
                line[f"{arch} {number}"] = rates["success"].get(number)
            for name in [name for name in rates if name != "success"]:
                line[f"{arch} {name}"] = rates[name]["rate"]
        lines.append(line)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, lines[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def json_text(rows: list[dict]) -> str:
    """Return the rows as JSON."""
    return json.dumps(rows, indent=2) + "\n"


FORMATS = {".txt": text, ".csv": csv_text, ".md": markdown, ".json": json_text}


def write(rows: list[dict], file: Path) -> None:
    """Write the rows in the format that the file's suffix names."""
    with whole_file(file) as part:
        part.write_text(FORMATS[file.suffix](rows), encoding="utf-8")


def run_text(run: dict, speeds: tuple[float, float] | None) -> str:
    """Return what attack_iter.py prints of a finished run.json.

    Args:
        speeds: images per second of the attack alone, and with reading and writing; None if nothing
            was left to do.
    """
    return (
        f"{run['attack']} on {run['source']}, gamma {gamma_text(run['gamma'])}, "
        f"epsilon {run['epsilon']:g}/255, {run['num_steps']} steps of {run['step_size']:g}/255\n"
        f"images                {run['images']}\n"
        f"white-box success     {run['white_box_success']:.1f} %\n"
        f"largest perturbation  {run['largest_perturbation']}/255\n"
    ) + (
        "speed                 {:.1f} images/s, {:.1f} with reading and writing".format(*speeds)
        if speeds
        else "nothing was left to do"
    )


def run_json(run: dict, speeds: tuple[float, float] | None) -> str:
    """Return the same as a line of JSON."""
    keys = ("images", "white_box_success", "largest_perturbation")
    alone, whole = speeds or (None, None)
    return json.dumps(
        {key: run[key] for key in keys}
        | {"images_per_second": alone, "images_per_second_of_run": whole}
    )
