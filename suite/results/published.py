"""Published success rates, put beside ours: which belongs to which, and whether they agree."""

import csv
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from suite.networks.catalogue import network_identity
from suite.results.rates import interval
from suite.running import cli
from suite.running.runs import run_settings

COLUMNS = ("source", "attack", "gamma", "target", "mean", "std", "from")
# A number is of runs without these, unless its file has a column that says otherwise.
WITHOUT = dict.fromkeys(("rand_init", "branches", "checkpoint"), "")
# Settings that run.json has outside its options, where step_size -1 and hooks auto are resolved.
RESOLVED = ("epsilon", "step_size", "num_steps", "hooks")


class PublishedRate(NamedTuple):
    """A published success rate.

    Attributes:
        place: its file and line.
        mean, std: over runs, in percent; `std` is None where none was published.
        origin: the table, or the row of one, that it is from.
        settings: which others a run must have, by the names of run.json's options.
    """

    place: str
    source: str
    attack: str
    gamma: str
    target: str
    mean: float
    std: float | None
    origin: str
    settings: dict[str, str]


def read_published(files: Sequence[Path]) -> dict[str, list[PublishedRate]]:
    """Return the numbers of CSV files by the files' stems, as data/published/README.md has them.

    Raises:
        UsageError: two files have one name.
        ValueError: a column is missing, a cell is wrong, or two rows are of the same run.
    """
    numbers = {}
    for file in files:
        if file.stem in numbers:
            raise cli.UsageError(f"--published: two files are called {file.stem}")
        numbers[file.stem] = _read(file)
    return numbers


def _read(file: Path) -> list[PublishedRate]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, strict=True)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
            if missing:
                raise ValueError(f"{file} has no column {' and '.join(missing)}")
            numbers = [_published_row(f"{file}, line {reader.line_num}", row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is not a CSV file in UTF-8 ({error})") from error
    for number, other in itertools.combinations(numbers, 2):
        both = number.settings.keys() & other.settings.keys()
        if (
            (number.attack, number.gamma) == (other.attack, other.gamma)
            and all(number.settings[name] == other.settings[name] for name in both)
            and _is_same_network(number.source, other.source)
            and _is_same_network(number.target, other.target)
        ):
            raise ValueError(f"{number.place} and {other.place} are of the same run")
    return numbers


def _published_row(place: str, row: dict) -> PublishedRate:
    if None in row:
        raise ValueError(f"{place}: it has more cells than the header")
    cells = {column: (cell or "").strip() for column, cell in row.items()}
    for column in COLUMNS:
        if not cells[column] and column != "std":
            raise ValueError(f"{place}: {column} is empty")

    def between(column: str, text: str, largest: int) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 <= number <= largest:
            raise ValueError(f"{place}: {column} is {text!r}, not a number from 0 to {largest}")
        return number

    return PublishedRate(
        place,
        cells["source"],
        cells["attack"],
        _setting_text([between("gamma", each, 1) for each in cells["gamma"].split()]),
        cells["target"],
        between("mean", cells["mean"], 100),
        between("std", cells["std"], 100) if cells["std"] else None,
        cells["from"],
        WITHOUT
        | {name: _setting_text(v) for name, v in cells.items() if v and name not in COLUMNS},
    )


def _setting_text(value: object) -> str:
    """Write a setting of run.json or of a cell, so that equal ones are equal texts."""
    if value is None or isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, list):
        return " ".join(map(_setting_text, value))
    try:
        return f"{float(value):g}"
    except ValueError:
        return str(value)


def compare_published(
    rows: list[dict],
    made: dict[Path, dict],
    numbers: dict[str, list[PublishedRate]],
    checkpoints: dict[str, Path],
) -> None:
    """Add to each target of the rows what was published of the same run, by file, as `published`.

    Its `verdict` is "agrees", "differs" or "none published". With the first two come `mean`, `std`
    and `from` of the number; `points`, how far our rate is above it; and `allowed`, how far it may
    be. With the third comes the `reason`.

    Args:
        rows: what `rates.merge_repeats` returns.
        made: run.json by folder, empty where there is none.
        numbers: what `read_published` returns.
        checkpoints: the user's files of weights, by target.
    """
    for row in rows if numbers else ():
        run = made[Path(row["folders"][0])]
        for arch, target in row["targets"].items():
            target["published"] = {}
            for file, listed in numbers.items():
                number = _find(listed, run, arch, arch in checkpoints)
                if isinstance(number, str):
                    verdict = {"verdict": "none published", "reason": number}
                else:
                    points = target["success"]["rate"] - number.mean
                    far = allowed(target["success"], row["images"], number.mean, number.std)
                    verdict = {
                        "verdict": "agrees" if abs(points) <= far else "differs",
                        "mean": number.mean,
                        "std": number.std,
                        "points": points,
                        "allowed": far,
                        "from": number.origin,
                    }
                target["published"][file] = verdict


def _find(
    numbers: list[PublishedRate], run: dict, arch: str, own_weights: bool
) -> PublishedRate | str:
    """Return the number of a run and a target, or why there is none."""
    if not run.get("source"):
        return "no run.json says how the images were made"
    if own_weights:
        return f"{arch} has weights of --checkpoint"
    source, attack, gamma = run["source"], run.get("attack"), _setting_text(run.get("gamma"))
    numbers = [number for number in numbers if _is_same_network(number.source, source)]
    if not numbers:
        return f"none on {source}"
    numbers = [n for n in numbers if (n.attack, n.gamma) == (attack, gamma)]
    if not numbers:
        return f"none of {attack} at gamma {gamma} on {source}"
    numbers = [number for number in numbers if _is_same_network(number.target, arch)]
    if not numbers:
        return f"none on the target {arch}"

    settings = run_settings(run) | {name: run[name] for name in RESOLVED if name in run}
    ours = {name: _setting_text(value) for name, value in settings.items()}

    def others(number: PublishedRate) -> dict[str, str]:
        return {n: value for n, value in number.settings.items() if value != ours.get(n, "")}

    nearest = min(numbers, key=lambda number: len(others(number)))
    if not others(nearest):
        return nearest
    return "published with " + ", ".join(
        f"{name} {value or 'none'} instead of {ours.get(name) or 'none'}"
        for name, value in others(nearest).items()
    )


def _is_same_network(name: str, other: str) -> bool:
    return network_identity(name) == network_identity(other)


def allowed(rate: dict, images: int, mean: float, std: float | None) -> float:
    """Return how far a rate may be from a published mean before they disagree, in points.

    As in Newcombe's hybrid interval of a difference (Statistics in Medicine 17, 1998, 873-890), it
    is made of the halves of two intervals that face each other. Ours is Wilson's, which for several
    runs is that of their mean on as many images as one run has; theirs is 1.96 standard deviations.

    Args:
        rate: as in the rows of `rates.merge_repeats`.
        images: the number of images of one run.
    """
    low, high = interval(round(rate["rate"] * images / 100), images)
    ours = rate["rate"] - low if rate["rate"] > mean else high - rate["rate"]
    return math.hypot(max(0, ours), 1.96 * (std or 0))
