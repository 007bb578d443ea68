"""Published success rates, put beside ours: which belongs to which, and whether they agree."""

import csv
import itertools
import math
from collections.abc import Hashable, Sequence
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
    """A published success rate."""

    place: str  # its file and line
    source: Hashable  # the network, as `network_identity` tells it from others; so is the target
    attack: str
    gamma: str
    target: Hashable
    mean: float  # over runs, in percent
    std: float | None  # None where none was published
    origin: str  # the table, or the row of one, that it is from
    settings: dict[str, str]  # which others a run must have, by the names of run.json's options


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
            reader = csv.DictReader(stream, restval="", strict=True)
            columns = [column.strip() for column in reader.fieldnames or []]
            twice = [column for column in filter(None, columns) if columns.count(column) > 1]
            if twice:
                raise ValueError(f"{file} has two columns {twice[0]}: keep one")
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
            if missing:
                raise ValueError(f"{file} has no column {' and '.join(missing)}")
            numbers = [_published_row(f"{file}, line {reader.line_num}", row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is not a CSV file in UTF-8 ({error})") from error
    for one, other in itertools.combinations(numbers, 2):
        both = one.settings.keys() & other.settings.keys()
        same = all(one.settings[name] == other.settings[name] for name in both)
        if same and one[1:5] == other[1:5]:  # source, attack, gamma and target
            raise ValueError(f"{one.place} and {other.place} are of the same run")
    return numbers


def _published_row(place: str, row: dict) -> PublishedRate:
    if None in row:
        raise ValueError(f"{place}: it has more cells than the header")
    cells = {column: cell.strip() for column, cell in row.items()}
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
        network_identity(cells["source"]),
        cells["attack"],
        _setting_text([between("gamma", each, 1) for each in cells["gamma"].split()]),
        network_identity(cells["target"]),
        between("mean", cells["mean"], 100),
        between("std", cells["std"], 100) if cells["std"] else None,
        cells["from"],
        WITHOUT | {n: _setting_text(v) for n, v in cells.items() if v and n not in COLUMNS},
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

    Its `verdict` is "agrees", "differs" or "none published". The first two come with the `mean`,
    `std` and `from` of the number; with `points`, how far our rate is above it; and with `allowed`,
    how far it may be. The third comes with a `reason`.

    Args:
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
                    target["published"][file] = {"verdict": "none published", "reason": number}
                    continue
                points = target["success"]["rate"] - number.mean
                far = allowed(target["success"], row["images"], number.mean, number.std)
                target["published"][file] = {
                    "verdict": "agrees" if abs(points) <= far else "differs",
                    "mean": number.mean,
                    "std": number.std,
                    "points": points,
                    "allowed": far,
                    "from": number.origin,
                }


def _find(
    numbers: list[PublishedRate], run: dict, arch: str, own_weights: bool
) -> PublishedRate | str:
    """Return the number of a run and a target, or why there is none."""
    if not run.get("source"):
        return "no run.json says how the images were made"
    if own_weights:
        return f"{arch} has weights of --checkpoint"
    source, attack, gamma = run["source"], run.get("attack"), _setting_text(run.get("gamma"))
    identity, other = network_identity(source), network_identity(arch)
    numbers = [n for n in numbers if n.source == identity]
    if not numbers:
        return f"none on {source}"
    numbers = [n for n in numbers if (n.attack, n.gamma) == (attack, gamma)]
    if not numbers:
        return f"none of {attack} at gamma {gamma} on {source}"
    numbers = [n for n in numbers if n.target == other]
    if not numbers:
        return f"none on the target {arch}"

    settings = run_settings(run) | {name: run[name] for name in RESOLVED if name in run}
    ours = {name: _setting_text(value) for name, value in settings.items()}
    differing = [
        [name for name, value in number.settings.items() if value != ours.get(name, "")]
        for number in numbers
    ]
    fewest, nearest = min(zip(differing, numbers, strict=True), key=lambda pair: len(pair[0]))
    if not fewest:
        return nearest
    theirs = nearest.settings
    texts = (f"{n} {theirs[n] or 'none'} instead of {ours.get(n) or 'none'}" for n in fewest)
    return f"published with {', '.join(texts)}"


def allowed(rate: dict, images: int, mean: float, std: float | None) -> float:
    """Return how far a rate may be from a published mean before they disagree, in points.

    As in Newcombe's hybrid interval of a difference (Statistics in Medicine 17, 1998, 873-890), it
    combines the halves of the two intervals that face each other. Ours is Wilson's; of several runs
    it is that of their mean on the images of one run. Theirs is 1.96 standard deviations.

    Args:
        rate: as in the rows of `rates.merge_repeats`.
        images: the number of images of one run.
    """
    low, high = interval(round(rate["rate"] * images / 100), images)
    ours = rate["rate"] - low if rate["rate"] > mean else high - rate["rate"]
    return math.hypot(max(0, ours), 1.96 * (std or 0))
