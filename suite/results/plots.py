"""Plots of the results, lines or bars, and a gallery of images; PNG or PDF."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

from suite.images.labels import printable, whole_file
from suite.results.report import attack_text, gamma_text

GALLERY_ROWS = 4
# Okabe and Ito's palette, which colour-blind readers can tell apart, and markers for print.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX<>h"
RIGHT, WRONG = ("✓", "#0072B2"), ("✗", "#D55E00")  # of an answer, its mark and colour
# For names in scripts that matplotlib's own font lacks.
FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Microsoft YaHei", "PingFang SC", "Noto Sans")
STYLES = ("--", "-", ":", "-.")
PLOT_AXES = {
    "gamma": "gamma (1: the plain attack)",
    "epsilon": "epsilon (1/255)",
    "num_steps": "number of steps",
}
LONG = 35  # letters of a name, of which two don't fit beside each other
BARS = 0.8  # the width of all bars of a row
# Of the distance of two places: over how much of it a place's points are spread sideways at most,
# and how far two of them are apart at most.
SPREAD, APART = 0.6, 0.1


# What is drawn in one style: places on the x axis, each with a target's numbers; and the style.
Series = tuple[list[tuple[float, dict]], dict[str, str]]


def write_plot(rows: list[dict], file: Path) -> None:
    """Draw success over what the rows differ in, gamma, epsilon or the number of steps; else bars.

    Each target has a line; over epsilon or the number of steps, one for each gamma. Stars are
    published numbers. If rows have baselines, the differences to them are drawn below.
    """
    over = _axis(rows)
    if over:
        rows = sorted(rows, key=lambda row: row[over])
    series = _series(rows, over)
    paired = any("baseline" in row for row in rows)
    width = max(6.4, 1.0 * len(series) if over else 0.5 * len(rows) * len(series))
    with _figure(file, (width, 7.5 if paired else 4.5)) as figure:
        axes, *below = figure.subplots(1 + paired, sharex=True, squeeze=False)[:, 0]
        _draw(axes, series, "success", "rate", 0 if over else BARS / len(series))
        _draw_published(axes, series)
        axes.set_ylabel("success rate (%)")
        axes.set_ylim(0, 105)
        for lower in below:
            _draw(lower, series, "difference", "points")
            lower.axhline(0, color="black", linewidth=0.8)
            lower.set_ylabel(f"difference to {_baseline(rows)} (points)")
        bottom = (below or [axes])[-1]
        title = [_shared(rows)]
        if over:
            title.insert(0, printable(f"{rows[-1]['attack']} on {rows[0]['source']}"))
            bottom.set_xlabel(PLOT_AXES[over])
            bottom.set_xticks(sorted({row[over] for row in rows}))
        else:
            names = map(_short_name, rows)
            bottom.set_xticks(range(len(rows)), names, rotation=40, ha="right", fontsize=8)
        axes.set_title("\n".join(filter(None, title)), fontsize=10)
        for each in (axes, *below):
            each.grid(axis="y", alpha=0.3)
        drawn, labels = axes.get_legend_handles_labels()
        columns = 2 if max(map(len, labels)) <= LONG else 1
        figure.legend(drawn, labels, loc="outside lower center", ncols=columns, fontsize=8)


def _shared(rows: list[dict]) -> str:
    """Return what all rows share of the number of images, epsilon and the number of steps."""
    words = {"images": "{} images", "epsilon": "epsilon {:g}/255", "num_steps": "{} steps"}
    values = {what: {row[what] for row in rows} for what in words}
    shared = {what: found.pop() for what, found in values.items() if len(found) == 1}
    return ", ".join(words[what].format(v) for what, v in shared.items() if v is not None)


def _baseline(rows: list[dict]) -> str:
    """Return in words with what rows are compared."""
    folders = {row["baseline"] for row in rows if "baseline" in row}
    if all(row["gamma"] == 1 for row in rows if folders & set(row["folders"])):
        return "gamma 1"
    return printable(Path(folders.pop()).name) if len(folders) == 1 else "the baseline"


def _axis(rows: list[dict]) -> str | None:
    """Return the one of PLOT_AXES that a curve can be drawn over; None if bars have to be drawn."""
    if not all(isinstance(row["gamma"], int | float) for row in rows):
        return None  # no run.json, or a gamma for each of several networks
    differing = [axis for axis in PLOT_AXES if len({row[axis] for row in rows}) > 1]
    over = differing[-1] if differing else None
    # A user's attack need not have a number of steps.
    if over is None or any(row[over] is None for row in rows):
        return None
    points = {(row["gamma"], row[over]) for row in rows}
    if set(differing) - {"gamma", over} or len(points) < len(rows):
        return None
    # With one step, the same attack is called FGSM.
    named = [row for row in rows if over != "num_steps" or row["num_steps"] != 1]
    attacks = {(row["source"], row["attack"]) for row in named}
    return over if len(attacks) == 1 else None


def _series(rows: list[dict], over: str | None) -> list[Series]:
    """Return each target's curves over a setting, or its bars."""
    lines = [("", "-" if over else "none", rows)]
    if over not in (None, "gamma"):
        gammas = sorted({row["gamma"] for row in rows}, reverse=True)
        lines = [
            (f", γ {gamma:g}", STYLES[n % len(STYLES)], [r for r in rows if r["gamma"] == gamma])
            for n, gamma in enumerate(gammas)
        ]
    series = []
    archs = list(rows[0]["targets"])
    spread = BARS
    if over:
        places = sorted({row[over] for row in rows})
        distance = min(b - a for a, b in itertools.pairwise(places))
        spread = min(SPREAD, APART * len(archs)) * distance
    for number, arch in enumerate(archs):
        offset = (number - (len(archs) - 1) / 2) * spread / len(archs)
        style = {"color": COLORS[number % len(COLORS)], "marker": MARKERS[number % len(MARKERS)]}
        for label, linestyle, line in lines:
            dashed = over and number >= len(COLORS)
            # Of a legend, matplotlib leaves out what begins with an underscore.
            shown = " " * arch.startswith("_") + printable(arch) + label
            named = {"label": shown, "linestyle": "--" if dashed else linestyle}
            places = [(row[over] if over else n) + offset for n, row in enumerate(line)]
            numbers = [row["targets"][arch] for row in line]
            series.append((list(zip(places, numbers, strict=True)), style | named))
    return series


def _draw(axes, series: list[Series], what: str, middle: str, bar_width: float = 0) -> None:
    """Draw the targets' success or difference with error bars, as points or as bars of a width.

    The estimate of what is drawn has the key `middle`.
    """
    for n, (points, style) in enumerate(series):
        found = [(place, target[what]) for place, target in points if what in target]
        places, heights = [place for place, _ in found], [number[middle] for _, number in found]
        errors = list(zip(*(_error(number, middle) for _, number in found), strict=True))
        if bar_width:
            style = {"label": style["label"], "color": style["color"], "capsize": 2}
            hatch = ("", "//")[n // len(COLORS) % 2]
            axes.bar(places, heights, bar_width, yerr=errors, hatch=hatch, **style)
        elif found:
            axes.errorbar(places, heights, yerr=errors, capsize=3, **style)


def _error(number: dict, middle: str) -> tuple[float, float]:
    """Return how far the error bar of a rate, or of a difference, reaches down and up."""
    if "std" in number:
        return number["std"], number["std"]
    reach = number[middle] - number["low"], number["high"] - number[middle]
    return tuple(max(0.0, each) for each in reach)  # rounding may put an end past the middle


def _draw_published(axes, series: list[Series]) -> None:
    """Draw a star at each published number, in its target's colour."""
    label = "published"
    for points, style in series:
        star = {"color": style["color"], "markeredgecolor": "black", "markersize": 10}
        for place, target in points:
            for found in target.get("published", {}).values():
                if "mean" in found:
                    axes.plot(place, found["mean"], "*", label=label, **star)
                    label = None  # once in the legend


def _short_name(row: dict) -> str:
    if row["gamma"] is None:
        return printable(Path(row["folders"][0]).name)
    attack = f"{attack_text(row)}, γ {gamma_text(row['gamma'])}"
    return f"{printable(attack)}\n{printable(str(row['source']))}"


def write_gallery(examples: list[dict], row: dict, file: Path) -> None:
    """Draw a row for each image: natural, perturbation, adversarial, and the targets' answers.

    Args:
        examples: for each image its `label`; `pixels`, natural and adversarial, uint8, 3 x H x W;
            and `answers`, by target, to the natural and to the adversarial image: each in words,
            and whether it is right.
        row: of `rates.merge_repeats`, whose images they are.
    """
    ticks = {"xticks": [], "yticks": []}
    lines = max((len(example["answers"]) for example in examples), default=0)
    with _figure(file, (9, (3.25 + 0.16 * lines) * len(examples) + 0.6)) as figure:
        gamma = f"gamma {gamma_text(row['gamma'])}"
        epsilon = "" if row["epsilon"] is None else f", epsilon {row['epsilon']:g}/255"
        made = f"{attack_text(row)} on {row['source']}"
        named = printable(made if row["source"] else str(row["folders"][0]))
        figure.suptitle(f"{named}\n{gamma}{epsilon}" if row["source"] else named, fontsize=10)
        axes = figure.subplots(len(examples), 3, squeeze=False, subplot_kw=ticks)
        for line, example in zip(axes, examples, strict=True):
            natural, adversarial = (p.permute(1, 2, 0).numpy() for p in example["pixels"])
            change = adversarial.astype(int) - natural
            largest = max(1, abs(change).max())
            pictures = {
                printable(f"natural: {example['label']}"): natural,
                f"perturbation, at most {largest}/255, contrast raised": (change / largest + 1) / 2,
                "adversarial": adversarial,
            }
            for axis, (title, picture) in zip(line, pictures.items(), strict=True):
                axis.imshow(picture)
                axis.set_title(title, fontsize=9)
            # A long name has room below the perturbation, to the right or to the left.
            for axis, which, side in ((line[0], 0, "left"), (line[2], 1, "right")):
                axis.set_xlabel("\n" * len(example["answers"]), fontsize=9)  # room for them
                for n, (arch, answers) in enumerate(example["answers"].items()):
                    words, right = answers[which]
                    mark, color = RIGHT if right else WRONG
                    style = {"color": color, "fontsize": 8, "ha": side, "va": "top"}
                    place = (which, 0), (0, -4 - 11 * n), "axes fraction", "offset points"
                    text = printable(f"{mark} {arch}: {words}")
                    axis.annotate(text, *place, **style).set_in_layout(False)


@contextlib.contextmanager
def _figure(file: Path, size: tuple[float, float]) -> Iterator:
    """Yield a figure and save it; a name with dollar signs in it is no formula."""
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.figure import Figure

    installed = font_manager.get_font_names()
    fonts = ["DejaVu Sans", *(font for font in FONTS if font in installed)]
    settings = {"text.parse_math": False, "text.usetex": False, "font.family": fonts}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        with whole_file(file) as part:
            figure.savefig(part, dpi=150, format=file.suffix[1:])
