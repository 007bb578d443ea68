"""Pictures of the results: success over gamma, bars, and a gallery of images; PNG or PDF."""

from pathlib import Path

from suite.images.labels import whole_file
from suite.results import report

GALLERY_ROWS = 4
# Okabe and Ito's palette, which colour-blind readers can tell apart, and markers for print.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
STYLES = ("--", "-", ":", "-.")
PLOT_AXES = {
    "gamma": "gamma (1: the plain attack)",
    "epsilon": "epsilon (1/255)",
    "num_steps": "number of steps",
}
BARS = 0.8  # the width of a row's bars together


def write_plot(rows: list[dict], file: Path) -> None:
    """Draw success over what the rows differ in, gamma, epsilon or the number of steps; else bars.

    Each target is a line; over epsilon or the steps, each target and gamma. Stars are published
    numbers. Below stand the differences to the baselines, if rows have some.
    """
    from matplotlib.figure import Figure

    over = _axis(rows)
    paired = any("baseline" in row for row in rows)
    width = 6.4 if over else max(6.4, 0.5 * len(rows) * len(rows[0]["targets"]))
    figure = Figure(figsize=(width, 7.5 if paired else 4.5))
    figure.set_layout_engine("constrained")
    axes, *below = figure.subplots(1 + paired, sharex=True, squeeze=False)[:, 0]
    if over:
        rows = sorted(rows, key=lambda row: row[over])
        _draw_lines(axes, rows, over)
    else:
        _draw_bars(axes, rows)
    _draw_published(axes, rows, over)
    axes.set_ylabel("success rate (%)")
    axes.set_ylim(0, 105)
    for lower in below:
        _draw_differences(lower, rows, over)
    bottom = (below or [axes])[-1]
    if over:
        bottom.set_xlabel(PLOT_AXES[over])
        if over != "gamma":
            bottom.set_xticks(sorted({row[over] for row in rows}))
    else:
        bottom.set_xticks(
            range(len(rows)), map(_short_name, rows), rotation=40, ha="right", fontsize=8
        )
    for each in (axes, *below):
        each.grid(axis="y", alpha=0.3)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8
    )
    _save(figure, file)


def _axis(rows: list[dict]) -> str | None:
    """Return in which of AXES the rows differ, apart from gamma; None if in more or in none."""
    if not all(isinstance(row["gamma"], int | float) for row in rows):
        return None  # without a run.json, or of several networks
    differing = [axis for axis in PLOT_AXES if len({row[axis] for row in rows}) > 1]
    over = differing[-1] if differing else None
    if over is None or any(row[over] is None for row in rows):  # as the steps of a user's attack
        return None
    points = {(row["gamma"], row[over]) for row in rows}
    if set(differing) - {"gamma", over} or len(points) < len(rows):
        return None
    # A single step has another name, FGSM.
    named = [row for row in rows if over != "num_steps" or row["num_steps"] != 1]
    attacks = {(row["source"], row["attack"]) for row in named}
    return over if len(attacks) == 1 else None


def _lines(rows: list[dict], over: str) -> list[tuple[str, str, list[dict]]]:
    """Return what each line of a target shows beside its name, its style, and its rows."""
    if over == "gamma":
        return [("", "-", rows)]
    gammas = sorted({row["gamma"] for row in rows}, reverse=True)
    return [
        (f", γ {gamma:g}", STYLES[n % len(STYLES)], [r for r in rows if r["gamma"] == gamma])
        for n, gamma in enumerate(gammas)
    ]


def _error(rate: dict, middle: str = "rate") -> tuple[float, float]:
    """Return how far the error bar of a rate, or of a difference, reaches down and up."""
    if "std" in rate:
        return rate["std"], rate["std"]
    reach = rate[middle] - rate["low"], rate["high"] - rate[middle]
    return tuple(max(0.0, each) for each in reach)  # rounding may put an end past the middle


def _point_style(target: int, style: str = "-") -> dict:
    return {
        "color": COLORS[target % len(COLORS)],
        "marker": MARKERS[target % len(MARKERS)],
        "linestyle": style if target < len(COLORS) else "--",
        "capsize": 3,
    }


def _bar_place(index: int, target: int, targets: int) -> float:
    """Return where the bar of a row and a target is."""
    return index + (target - (targets - 1) / 2) * BARS / targets


def _draw_lines(axes, rows: list[dict], over: str) -> None:
    for target, arch in enumerate(rows[0]["targets"]):
        for label, style, line in _lines(rows, over):
            rates = [row["targets"][arch]["success"] for row in line]
            axes.errorbar(
                [row[over] for row in line],
                [rate["rate"] for rate in rates],
                yerr=list(zip(*map(_error, rates), strict=True)),
                label=arch + label,
                **_point_style(target, style),
            )
    axes.set_title(f"{rows[-1]['attack']} on {rows[0]['source']}", fontsize=10)


def _draw_bars(axes, rows: list[dict]) -> None:
    archs = list(rows[0]["targets"])
    for target, arch in enumerate(archs):
        rates = [row["targets"][arch]["success"] for row in rows]
        axes.bar(
            [_bar_place(index, target, len(archs)) for index in range(len(rows))],
            [rate["rate"] for rate in rates],
            BARS / len(archs),
            yerr=list(zip(*map(_error, rates), strict=True)),
            label=arch,
            color=COLORS[target % len(COLORS)],
            hatch=("", "//")[target // len(COLORS) % 2],
            capsize=2,
        )


def _draw_published(axes, rows: list[dict], over: str | None) -> None:
    """Draw a star at each published number, in its target's colour."""
    label = "published"
    archs = list(rows[0]["targets"])
    for target, arch in enumerate(archs):
        for n, row in enumerate(rows):
            for beside in row["targets"][arch].get("published", {}).values():
                if "mean" in beside:
                    place = row[over] if over else _bar_place(n, target, len(archs))
                    style = {"color": COLORS[target % len(COLORS)], "markeredgecolor": "black"}
                    axes.plot(place, beside["mean"], "*", markersize=10, label=label, **style)
                    label = None  # once in the legend


def _draw_differences(axes, rows: list[dict], over: str | None) -> None:
    archs = list(rows[0]["targets"])
    lines = _lines(rows, over) if over else [("", "none", rows)]
    for target, arch in enumerate(archs):
        for _, style, line in lines:
            compared = [(n, row) for n, row in enumerate(line) if "baseline" in row]
            if not compared:
                continue
            differences = [row["targets"][arch]["difference"] for _, row in compared]
            axes.errorbar(
                [row[over] if over else _bar_place(n, target, len(archs)) for n, row in compared],
                [each["points"] for each in differences],
                yerr=list(zip(*(_error(each, "points") for each in differences), strict=True)),
                **_point_style(target) | {"linestyle": style},
            )
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_ylabel("difference to the baseline (points)")


def _short_name(row: dict) -> str:
    if row["gamma"] is None:
        return Path(row["folders"][0]).name
    return f"{row['attack']}, γ {report.gamma_text(row['gamma'])}\n{row['source']}"


def write_gallery(examples: list[dict], file: Path) -> None:
    """Draw images as rows: natural, perturbation enlarged, adversarial, with the targets' answers.

    Args:
        examples: of each image `label`, its class; `pixels`, natural and adversarial, uint8,
            3 x H x W; `answers`, by target, to the natural and to the adversarial image.
        file: PNG or PDF to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.3 * len(examples)), layout="constrained")
    axes = figure.subplots(len(examples), 3, squeeze=False)
    for row, example in zip(axes, examples, strict=True):
        natural, adversarial = (p.permute(1, 2, 0).numpy() for p in example["pixels"])
        difference = adversarial.astype(int) - natural
        largest = max(1, abs(difference).max())
        row[0].imshow(natural)
        row[1].imshow((difference / largest + 1) / 2)
        row[2].imshow(adversarial)
        row[0].set_title(f"natural: {example['label']}", fontsize=9)
        row[1].set_title(f"perturbation, at most {largest}/255, enlarged", fontsize=9)
        row[2].set_title("adversarial", fontsize=9)
        for axis, answer in ((row[0], 0), (row[2], 1)):
            axis.set_xlabel(
                "\n".join(f"{arch}: {said[answer]}" for arch, said in example["answers"].items()),
                fontsize=8,
            )
        for axis in row:
            axis.set_xticks([])
            axis.set_yticks([])
    _save(figure, file)


def _save(figure, file: Path) -> None:
    with whole_file(file) as part:
        figure.savefig(part, dpi=150, format=file.suffix[1:])
