"""Tables, CSV files and pictures of the results that evaluate.py computes.

A result is what evaluate.py prints with --json: folder, source, attack, gamma, epsilon, images,
largest_perturbation, and for each of the targets its fooled, success, natural_accuracy and
success_on_correct. Rates are in percent; what needs natural images is absent without them.
"""

import csv
from pathlib import Path

GALLERY_ROWS = 4


def text(results: list[dict]) -> str:
    """Return the results as tables for a terminal: a row per folder, a column per target."""
    parts = [
        "Success: images that a target misclassifies, in %",
        _table([_settings(result) | _rates(result, "success") for result in results]),
    ]
    if "largest_perturbation" in results[0]:
        accuracies = [{"images": r["images"]} | _rates(r, "natural_accuracy") for r in results]
        parts += [
            "",
            "Success among the images that the target classifies correctly when natural, in %",
            _table(
                [_settings(result) | _rates(result, "success_on_correct") for result in results]
            ),
            "",
            "Accuracy on the natural images, in %",
            _table([row for n, row in enumerate(accuracies) if row not in accuracies[:n]]),
        ]
    return "\n".join(parts)


def _table(rows: list[dict]) -> str:
    lines = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    words = sum(isinstance(value, str) for value in rows[0].values())
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _rates(result: dict, rate: str) -> dict[str, float | None]:
    return {arch: target[rate] for arch, target in result["targets"].items()}


def _settings(result: dict) -> dict:
    settings = {key: result[key] or "-" for key in ("folder", "source", "attack")}
    gamma = result["gamma"] and f"{result['gamma']:g}"
    settings |= {"gamma": gamma or "-", "images": result["images"]}
    if "largest_perturbation" in result:
        settings["max |d|"] = f"{result['largest_perturbation']}/255"
    return settings


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def write_csv(results: list[dict], file: Path) -> None:
    """Write the results: a row per folder; per target one column, or three with natural images."""
    rows = []
    for result in results:
        row = {key: value for key, value in result.items() if key != "targets"}
        for arch, target in result["targets"].items():
            row[arch] = target["success"]
            for rate in ("natural_accuracy", "success_on_correct"):
                if rate in target:
                    row[f"{arch} {rate}"] = target[rate]
        rows.append(row)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def write_gallery(file: Path, examples: list[dict]) -> None:
    """Draw images as rows: natural, perturbation enlarged, adversarial, with the targets' answers.

    Args:
        file: PNG or PDF to write.
        examples: of each image `label`, its class; `pixels`, natural and adversarial, uint8,
            3 x H x W; `answers`, by target, to the natural and to the adversarial image.
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
    figure.savefig(file, dpi=120)
