"""Published success rates beside ours: which belongs to which, and whether they agree."""

import argparse
import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from suite.networks.catalogue import network_identity
from suite.results.rates import interval
from suite.running import cli, runs

COLUMNS = ("source", "attack", "gamma", "target", "mean", "std", "from")
# A number is of runs without these, unless its file has a column that says otherwise.
WITHOUT = dict.fromkeys(("rand_init", "branches", "checkpoint"), "")
# Of what run.json says in its own right: as options, -1 is epsilon / num_steps, and auto any hooks.
RESOLVED = ("epsilon", "step_size", "num_steps", "hooks")


class PublishedRate(NamedTuple):
    """A published success rate.

    Attributes:
        place: its file and line.
        mean, std: over runs, in percent; without a standard deviation, `std` is None.
        origin: what the number is from.
        settings: what else the run has to have, by the names of run.json's options.
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
        ValueError: a column is missing, a cell can't be, or two rows are of the same run.
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
    groups = {}
    for number in numbers:
        source, target = network_identity(number.source), network_identity(number.target)
        group = groups.setdefault((source, number.attack, number.gamma, target), [])
        for other in group:
            both = number.settings.keys() & other.settings.keys()
            if all(number.settings[name] == other.settings[name] for name in both):
                raise ValueError(f"{other.place} and {number.place} are of the same run")
        group.append(number)
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
    """Add to the targets of rows what was published of the same run, by file, as `published`.

    That is its `verdict`: "agrees", "differs" or "none published". The first two have `mean`, `std`
    and `from` of the number; `points`, how far our rate is above it; `allowed`, how far it may be.
    The third has the `reason`.

    Args:
        rows: of `rates.merge_repeats`.
        made: run.json by folder, empty where there is none.
        numbers: of `read_published`.
        checkpoints: the user's files of weights, by target.
    """
    for row in rows if numbers else ():
        run = made[Path(row["folders"][0])]
        for arch, rates in row["targets"].items():
            rates["published"] = {}
            for file, listed in numbers.items():
                found = _find(listed, run, arch, arch in checkpoints)
                if isinstance(found, str):
                    verdict = {"verdict": "none published", "reason": found}
                else:
                    verdict = _verdict(found, rates["success"], row["images"])
                rates["published"][file] = verdict


def _find(
    numbers: list[PublishedRate], run: dict, arch: str, own_weights: bool
) -> PublishedRate | str:
    """Return the number of a run and a target, or why there is none."""
    if not run.get("source"):
        return "no run.json says how the images were made"
    if own_weights:
        return f"{arch} has weights of --checkpoint"
    source, attack, gamma = run["source"], run.get("attack"), _setting_text(run.get("gamma"))
    wanted: list[tuple[Callable[[PublishedRate], bool], str]] = [
        (lambda n: _is_same_network(n.source, source), f"none on {source}"),
        (
            lambda n: n.attack == attack and n.gamma == gamma,
            f"none of {attack} at gamma {gamma} on {source}",
        ),
        (lambda n: _is_same_network(n.target, arch), f"none on the target {arch}"),
    ]
    for holds, reason in wanted:
        numbers = [number for number in numbers if holds(number)]
        if not numbers:
            return reason
    there = runs.run_settings(run) | {name: run[name] for name in RESOLVED if name in run}
    differ = [
        {
            name: value
            for name, value in number.settings.items()
            if _setting_text(there.get(name)) != value
        }
        for number in numbers
    ]
    least = min(range(len(numbers)), key=lambda n: len(differ[n]))
    if not differ[least]:
        return numbers[least]
    return "published with " + ", ".join(
        f"{name} {value or 'none'} instead of {_setting_text(there.get(name)) or 'none'}"
        for name, value in differ[least].items()
    )


def _is_same_network(name: str, other: str) -> bool:
    return network_identity(name) == network_identity(other)


def _verdict(number: PublishedRate, rate: dict, images: int) -> dict:
    points = rate["rate"] - number.mean
    far = allowed(rate, images, number.mean, number.std)
    return {
        "verdict": "agrees" if abs(points) <= far else "differs",
        "mean": number.mean,
        "std": number.std,
        "points": points,
        "allowed": far,
        "from": number.origin,
    }


def allowed(rate: dict, images: int, mean: float, std: float | None) -> float:
    """Return how far a rate may be from a published mean before they disagree, in points.

    That is how far the ends of two intervals on the sides that face each other are apart, as in
    Newcombe's hybrid interval of a difference (Statistics in Medicine 17, 1998, 873-890): of ours
    Wilson's, which for several runs is that of their mean on as many images as one has; of theirs
    1.96 standard deviations.

    Args:
        rate: as in the rows of `rates.merge_repeats`.
        images: how many there are of one run.
    """
    low, high = interval(round(rate["rate"] * images / 100), images)
    ours = rate["rate"] - low if rate["rate"] > mean else high - rate["rate"]
    return math.hypot(max(0, ours), 1.96 * (std or 0))


PUBLISHED_FOLDER = Path(__file__).resolve().parents[2] / "data" / "published"
PUBLISHED_NAMES = sorted(file.stem for file in PUBLISHED_FOLDER.glob("*.csv"))


def published_file(text: str) -> Path:
    """Return the file of a name in data/published/, or the file that is given."""
    if text in PUBLISHED_NAMES:
        return PUBLISHED_FOLDER / f"{text}.csv"
    if Path(text).is_file():
        return Path(text)
    raise argparse.ArgumentTypeError(
        f"{text} is neither a file nor one of {', '.join(PUBLISHED_NAMES)}"
    )
