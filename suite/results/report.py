"""Tables of the rows of `rates.merge_repeats`, as text, Markdown, CSV and JSON."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

from suite.images.labels import whole_file
from suite.results.visibility import TITLES

TOLD_APART = 0.05  # the p above which nothing can be said


def table_text(rows: list[dict]) -> str:
    """Return the rows as tables for a terminal: a line per setting, a column per target."""
    return "\n\n".join(f"{title}\n{_aligned(lines)}" for title, lines in _tables(rows))


def table_markdown(rows: list[dict]) -> str:
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
    settings = [_setting_cells(row) for row in rows]

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
    if "quality" in rows[0]:
        lines = [
            [s["folder"], *map(_number_text, r["quality"].values())]
            for s, r in zip(settings, rows, strict=True)
        ]
        titles = [TITLES[what] for what in rows[0]["quality"]]
        yield "How visible: means over the images", [["folder", *titles], *lines]
    if any("baseline" in row for row in rows):
        yield _difference_table(rows)
    if any("published" in rates for rates in rows[0]["targets"].values()):
        yield _published_table(rows)


def _difference_table(rows: list[dict]) -> tuple[str, list[list[str]]]:
    """Return the title and the table of the comparisons with baselines."""
    header = ["folder", "baseline", "target", "points", "images", "won", "lost", "p", ""]
    lines = [
        [
            _folder_text(row),
            row["baseline"],
            arch,
            f"{d['points']:+.1f} [{d['low']:+.1f}, {d['high']:+.1f}]",
            *(str(d[what]) for what in ("images", "won", "lost")),
            f"{d['p']:.2g}",
            "" if d["p"] < TOLD_APART else "nothing can be told apart",
        ]
        for row in rows
        if "baseline" in row
        for arch, rates in row["targets"].items()
        for d in [rates["difference"]]
    ]
    title = (
        "Against the baseline, image by image: the difference in points with its 95 % interval, "
        "images won and lost, and p"
    )
    return title, [header, *lines]


def _published_table(rows: list[dict]) -> tuple[str, list[list[str]]]:
    """Return the title and the table of published numbers."""
    header = ["folder", "target", "ours", "published", "points", "allowed", "", "from"]
    lines = []
    for row in rows:
        targets = row["targets"]
        for file in next(iter(targets.values()))["published"]:
            found = {arch: rates["published"][file] for arch, rates in targets.items()}
            cells = {
                arch: [f"{targets[arch]['success']['rate']:.2f}", *_published_cells(each, file)]
                for arch, each in found.items()
            }
            reasons = {each.get("reason") for each in found.values()}
            if len(targets) > 1 and len(reasons) == 1 and None not in reasons:
                _, *shared = next(iter(cells.values()))
                cells = {f"all {len(targets)} targets": ["", *shared]}
            lines += [[_folder_text(row), arch, *each] for arch, each in cells.items()]
    title = (
        "Beside published numbers: the difference in points, and how large a one our 95 % interval "
        "and their standard deviation allow"
    )
    return title, [header, *lines]


def _published_cells(found: dict, file: str) -> list[str]:
    """Return the cells of what was published, or of why there is nothing."""
    if "reason" in found:
        return [found["verdict"], "", "", "", f"{file}: {found['reason']}"]
    std = "" if found["std"] is None else f" ± {found['std']:.2f}"
    return [
        f"{found['mean']:.2f}{std}",
        f"{found['points']:+.2f}",
        f"{found['allowed']:.2f}",
        found["verdict"],
        f"{file}: {found['from']}",
    ]


def _folder_text(row: dict) -> str:
    return row["folders"][0] + (f" +{row['runs'] - 1}" if row["runs"] > 1 else "")


def _setting_cells(row: dict) -> dict[str, str]:
    settings = {
        "folder": _folder_text(row),
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


def _number_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


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
    lines = [_csv_line(row) for row in rows]
    columns = dict.fromkeys(column for line in lines for column in line)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _csv_line(row: dict) -> dict:
    nested = ("folders", "targets", "quality")
    line = {"folder": " ".join(row["folders"])}
    line |= {key: value for key, value in row.items() if key not in nested}
    line |= {"gamma": gamma_text(row["gamma"])} | row.get("quality", {})
    for arch, rates in row["targets"].items():
        line[arch] = rates["success"]["rate"]
        for number in ("std", "low", "high"):
            line[f"{arch} {number}"] = rates["success"].get(number)
        for name in ("success_on_correct", "natural_accuracy"):
            if name in rates:
                line[f"{arch} {name}"] = rates[name]["rate"]
        for number, value in rates.get("difference", {}).items():
            line[f"{arch} difference {number}"] = value
        for file, beside in rates.get("published", {}).items():
            line |= {f"{arch} {file} {what}": value for what, value in beside.items()}
    return line


def json_text(rows: list[dict]) -> str:
    """Return the rows as JSON."""
    return json.dumps(rows, indent=2) + "\n"


FORMATS = {".txt": table_text, ".csv": csv_text, ".md": table_markdown, ".json": json_text}


def write_table(rows: list[dict], file: Path) -> None:
    """Write the rows in the format that the file's suffix names."""
    with whole_file(file) as part:
        part.write_text(FORMATS[file.suffix](rows), encoding="utf-8")
