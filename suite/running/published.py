"""Where published numbers are: data/published/, or a file of the user's own."""

import argparse
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "data" / "published"
NAMES = sorted(file.stem for file in FOLDER.glob("*.csv"))


def file_of(text: str) -> Path:
    """Return the file of a name in data/published/, or the file that is given."""
    if text in NAMES:
        return FOLDER / f"{text}.csv"
    if Path(text).is_file():
        return Path(text)
    raise argparse.ArgumentTypeError(f"{text} is neither a file nor one of {', '.join(NAMES)}")
