"""What the targets answered to each image, as a file for statistics of one's own."""

import csv
from pathlib import Path

from suite.images.labels import LabelledImage, whole_file
from suite.results.transfer import Answers


def write_answers(
    answers: Answers,
    folders: dict[Path, list[LabelledImage]],
    naturals: dict[str, LabelledImage],
    natural_folder: Path | None,
    file: Path,
) -> None:
    """Write a row of CSV for each folder and image: label, and of each target two columns.

    These are its class, and the probability that it gives to the label.

    Args:
        naturals: by name; those that were asked about make the first rows.
    """
    shelves = {None: list(naturals.values())} | folders
    archs = list(answers[None])
    with whole_file(file) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        columns = [f"{arch} {what}" for arch in archs for what in ("class", "probability")]
        writer.writerow(["folder", "filename", "label", "target", *columns])
        for folder, listed in shelves.items():
            for image in listed:
                said = [answers[folder][arch].get(image.name) for arch in archs]
                if None not in said:
                    numbers = [number for answer in said for number in answer]
                    place = natural_folder if folder is None else folder
                    writer.writerow([place, image.name, image.label, image.target, *numbers])
