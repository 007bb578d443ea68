"""The targets' answers to each image, as a file for the user's own statistics."""

import csv
from pathlib import Path

from suite.images.labels import LabelledImage, whole_file
from suite.results.report import csv_cell
from suite.results.transfer import Answers


def write_answers(
    answers: Answers,
    folders: dict[Path, list[LabelledImage]],
    naturals: dict[str, LabelledImage],
    natural_folder: Path | None,
    file: Path,
) -> None:
    """Write a CSV file with a row for each image that was classified, the natural ones first.

    It has two columns for each target: the class that it predicts, and the probability that it
    gives to the label.
    """
    archs = list(answers[None])
    columns = [f"{arch} {what}" for arch in archs for what in ("class", "probability")]
    # As write_table does it.
    named = {"encoding": "utf-8", "errors": "surrogateescape"}
    with whole_file(file) as part, part.open("w", newline="", **named) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(map(csv_cell, ["folder", "filename", "label", "target", *columns]))
        for folder, listed in ({None: naturals.values()} | folders).items():
            for image in listed:
                answered = [answers[folder][arch].get(image.name) for arch in archs]
                if None not in answered:
                    numbers = [number for answer in answered for number in answer]
                    names = [csv_cell(str(folder or natural_folder)), csv_cell(image.name)]
                    writer.writerow([*names, image.label, image.target, *numbers])
