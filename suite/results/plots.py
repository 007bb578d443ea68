"""Pictures of the results: success over gamma, bars, and a gallery of images; PNG or PDF."""

from pathlib import Path

from suite.images import whole_file
from suite.results import report

GALLERY_ROWS = 4
# Okabe and Ito's palette, which colour-blind readers can tell apart, and markers for print.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"


def write_plot(rows: list[dict], file: Path) -> None:
    """Draw success over gamma, a line per target, where rows differ in gamma alone; else bars."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(6.4, 0.5 * len(rows) * len(rows[0]["targets"])), 4.5))
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    if len({str(row["gamma"]) for row in rows}) == len(rows) > 1 and _alike(rows):
        _draw_lines(axes, rows)
    else:
        _draw_bars(axes, rows)
    axes.set_ylabel("success rate (%)")
    axes.set_ylim(0, 105)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    _save(figure, file)


def _alike(rows: list[dict]) -> bool:
    """Say whether the rows are of one attack on one source, with one gamma each."""
    attacks = {(row["source"], row["attack"], row["epsilon"]) for row in rows}
    return len(attacks) == 1 and all(isinstance(row["gamma"], int | float) for row in rows)


def _error(rate: dict) -> tuple[float, float]:
    """Return how far the error bar of a rate reaches down and up."""
    if "std" in rate:
        return rate["std"], rate["std"]
    return rate["rate"] - rate["low"], rate["high"] - rate["rate"]


def _draw_lines(axes, rows: list[dict]) -> None:
    rows = sorted(rows, key=lambda row: row["gamma"])
    for target, arch in enumerate(rows[0]["targets"]):
        rates = [row["targets"][arch]["success"] for row in rows]
        axes.errorbar(
            [row["gamma"] for row in rows],
            [rate["rate"] for rate in rates],
            yerr=list(zip(*map(_error, rates), strict=True)),
            label=arch,
            color=COLORS[target % len(COLORS)],
            marker=MARKERS[target % len(MARKERS)],
            linestyle=("-", "--")[target // len(COLORS) % 2],
            capsize=3,
        )
    axes.set_xlabel("gamma (1: the plain attack)")
    axes.set_title(f"{rows[0]['attack']} on {rows[0]['source']}", fontsize=10)


def _draw_bars(axes, rows: list[dict]) -> None:
    archs = list(rows[0]["targets"])
    width = 0.8 / len(archs)
    for target, arch in enumerate(archs):
        rates = [row["targets"][arch]["success"] for row in rows]
        axes.bar(
            [index + (target - (len(archs) - 1) / 2) * width for index in range(len(rows))],
            [rate["rate"] for rate in rates],
            width,
            yerr=list(zip(*map(_error, rates), strict=True)),
            label=arch,
            color=COLORS[target % len(COLORS)],
            hatch=("", "//")[target // len(COLORS) % 2],
            capsize=2,
        )
    names = [
        f"{row['attack']}, γ {report.gamma_text(row['gamma'])}\n{row['source']}"
        if row["attack"]
        else Path(row["folders"][0]).name
        for row in rows
    ]
    axes.set_xticks(range(len(rows)), names, rotation=40, ha="right", fontsize=8)


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
