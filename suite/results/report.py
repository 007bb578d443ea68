"""Tables of the rows of `rates.merge_repeats`, as text, Markdown, CSV and JSON."""

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from suite.images.labels import printable, remove_parts, whole_file
from suite.results.visibility import TITLES
from suite.running import cli

# What Markdown would take for markup; underscores within a word are none.
MARKUP = re.compile(r"[\\`*|<&~]|(?<![^\W_])_|_(?![^\W_])|(?<=\])\(")
SIGNIFICANT = 0.05  # a difference with a larger p may be chance

Lines = list[dict[str, str]]  # the lines of a table, each with a cell for every column


def table_text(rows: list[dict]) -> str:
    """Return the rows as tables for a terminal: a line per setting, a column per target."""
    parts = []
    for title, cells in _tables(rows):
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        padded = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)
        parts.append("\n".join([title, *padded]))
    return "\n\n".join(parts)


def table_markdown(rows: list[dict]) -> str:
    """Return the rows as Markdown tables."""
    parts = []
    for title, (header, *lines) in _tables(rows):
        escaped = [[MARKUP.sub(r"\\\g<0>", cell) for cell in line] for line in (header, *lines)]
        escaped.insert(1, ["---"] * len(header))
        table = "\n".join(f"| {' | '.join(line)} |" for line in escaped)
        parts.append(f"{title}\n\n{table}\n")
    return "\n".join(parts)


def csv_text(rows: list[dict]) -> str:
    """Return the rows as CSV: a line per setting, with a column for each number of each target."""
    lines = []
    for row in rows:
        line = {"folder": " ".join(row["folders"])}
        line |= {what: row[what] for what in row if what not in ("folders", "targets", "quality")}
        line |= {"attack": row["attack"] and attack_text(row), "gamma": gamma_text(row["gamma"])}
        line |= row.get("quality", {})
        for arch, target in row["targets"].items():
            line[arch] = target["success"]["rate"]
            for what in ("std", "low", "high"):
                line[f"{arch} {what}"] = target["success"].get(what)
            for what in ("success_on_correct", "natural_accuracy"):
                if what in target:
                    line[f"{arch} {what}"] = target[what]["rate"]
            found = {"difference": target.get("difference", {})} | target.get("published", {})
            for name, numbers in found.items():
                line |= {f"{arch} {name} {what}": number for what, number in numbers.items()}
        lines.append(line)
    columns = list(dict.fromkeys(itertools.chain(*lines)))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(map(csv_cell, columns))
    writer.writerows([csv_cell(line.get(column)) for column in columns] for line in lines)
    return stream.getvalue()


def csv_cell(value: object) -> object:
    """Return a value for a CSV file: a spreadsheet takes what begins with = for a formula."""
    formula = isinstance(value, str) and len(value) > 1 and value[0] in "=+-@\t\r"
    return f"'{value}" if formula else value


def json_text(rows: list[dict]) -> str:
    """Return the rows as JSON."""
    return json.dumps(rows, indent=2) + "\n"


FORMATS = {".txt": table_text, ".csv": csv_text, ".md": table_markdown, ".json": json_text}


def write_table(rows: list[dict], file: Path) -> None:
    """Write the rows in the format that the file's suffix names."""
    with whole_file(file) as part:
        # The names of folders need not be UTF-8, and are written as the file system has them.
        text = FORMATS[file.suffix](rows)
        part.write_text(text, encoding="utf-8", errors="surrogateescape")


def publish(
    text: str,
    writers: Sequence[tuple[Path | None, Callable[[Path], None]]],
    checks: Sequence[Callable[[], None]] = (),
) -> None:
    """Print a result, write files and check: each is tried, whatever failed before.

    Args:
        writers: each file, or None, and what writes it.

    Raises:
        OSError: several of these failed, it names them all; of one alone, its own error.
    """
    jobs = [lambda: cli.print_result(text.removesuffix("\n"))]
    for file, write in writers:
        if file:
            remove_parts(file)
            jobs.append(partial(write, file))
    errors = []
    for job in [*jobs, *checks]:
        try:
            job()
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise OSError("; ".join(map(str, errors)))


def _tables(rows: list[dict]) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield the title of each table, and its cells, with the header, that can be printed."""
    for title, lines in _lines(rows):
        cells = [lines[0].keys(), *(line.values() for line in lines)]
        yield title, [[printable(cell) for cell in line] for line in cells]


def _lines(rows: list[dict]) -> Iterator[tuple[str, Lines]]:
    """Yield the title and the lines of each table."""
    title = "Success in %, with the 95 % interval or the standard deviation over runs"
    yield title, _rates_of(rows, "success")
    if "largest_perturbation" in rows[0]:
        title = "Success in % among the images that the target classifies correctly when natural"
        yield title, _rates_of(rows, "success_on_correct")
        accuracies = []
        for row in rows:
            line = {"images": str(row["images"])}
            for arch, target in row["targets"].items():
                line[arch] = f"{target['natural_accuracy']['rate']:.1f}"
            if line not in accuracies:
                accuracies.append(line)
        yield "Accuracy on the natural images in %", accuracies
    if "quality" in rows[0]:
        measures = [{"folder": _folder_text(row)} for row in rows]
        for line, row in zip(measures, rows, strict=True):
            for what, mean in row["quality"].items():
                line[TITLES[what]] = "-" if mean is None else f"{mean:.4g}"
        yield "How visible: means over the images", measures
    if any("baseline" in row for row in rows):
        title = (
            "Against the baseline, image by image: the difference in points with its 95 % "
            "interval, images won and lost, and p"
        )
        yield title, _differences(rows)
    if any("published" in target for target in rows[0]["targets"].values()):
        title = (
            "Beside published numbers: the difference in points, and how large a one our 95 % "
            "interval and their standard deviation allow"
        )
        yield title, _published(rows)


def _rates_of(rows: list[dict], what: str) -> Lines:
    """Return a line for each row: its setting, and one of the rates of each target."""
    lines = []
    for row in rows:
        line = {
            "folder": _folder_text(row),
            "source": row["source"] or "-",
            "attack": attack_text(row),
            "gamma": gamma_text(row["gamma"]),
            "images": str(row["images"]),
        }
        if "largest_perturbation" in row:
            line["largest"] = f"{row['largest_perturbation']}/255"
        rates = {arch: _rate_text(target[what]) for arch, target in row["targets"].items()}
        lines.append(line | rates)
    return lines


def _differences(rows: list[dict]) -> Lines:
    """Return a line for each row that has a baseline and each of its targets."""
    return [
        {
            "folder": _folder_text(row),
            "baseline": row["baseline"],
            "target": arch,
            "points": f"{d['points']:+.1f} [{d['low']:+.1f}, {d['high']:+.1f}]",
            **{what: str(d[what]) for what in ("images", "won", "lost")},
            "p": f"{d['p']:.2g}",
            "": "" if d["p"] < SIGNIFICANT else "nothing can be told apart",
        }
        for row in rows
        if "baseline" in row
        for arch, target in row["targets"].items()
        for d in [target["difference"]]
    ]


def _published(rows: list[dict]) -> Lines:
    """Return a line for each row, file and target; one where all targets lack a number alike."""
    lines = []
    for row in rows:
        targets = row["targets"]
        for file in next(iter(targets.values()))["published"]:
            shown = [
                (arch, f"{target['success']['rate']:.2f}", target["published"][file])
                for arch, target in targets.items()
            ]
            reasons = {found.get("reason") for _, _, found in shown}
            if len(shown) > 1 and len(reasons) == 1 and None not in reasons:
                shown = [(f"all {len(shown)} targets", "", shown[0][2])]
            lines += [
                {"folder": _folder_text(row), "target": arch, "ours": ours}
                | _published_cells(found, file)
                for arch, ours, found in shown
            ]
    return lines


def _published_cells(found: dict, file: str) -> dict[str, str]:
    if "reason" in found:
        empty = dict.fromkeys(("points", "allowed", ""), "")
        return {"published": found["verdict"], **empty, "from": f"{file}: {found['reason']}"}
    std = "" if found["std"] is None else f" ± {found['std']:.2f}"
    return {
        "published": f"{found['mean']:.2f}{std}",
        "points": f"{found['points']:+.2f}",
        "allowed": f"{found['allowed']:.2f}",
        "": found["verdict"],
        "from": f"{file}: {found['from']}",
    }


def _folder_text(row: dict) -> str:
    return row["folders"][0] + (f" +{row['runs'] - 1}" if row["runs"] > 1 else "")


def attack_text(run: dict) -> str:
    """Return the name of a row's or a run's attack, with SGM where a gamma is below 1."""
    gammas = run["gamma"] if isinstance(run["gamma"], list) else [run["gamma"]]
    sgm = "+SGM" * any(gamma is not None and gamma < 1 for gamma in gammas)
    return (run["attack"] or "-") + sgm


def gamma_text(gamma: float | list[float] | None) -> str:
    """Return a gamma of run.json, or one for each source; a hyphen if it is unknown."""
    if gamma is None:
        return "-"
    return " ".join(f"{g:g}" for g in (gamma if isinstance(gamma, list) else [gamma]))


def _rate_text(rate: dict) -> str:
    if rate["rate"] is None:
        return "-"
    if "std" in rate:
        return f"{rate['rate']:.1f} ± {rate['std']:.1f}"
    return f"{rate['rate']:.1f} [{rate['low']:.0f}, {rate['high']:.0f}]"
