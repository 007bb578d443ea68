"""Labelled images that need no download."""

import importlib.util
from pathlib import Path

from suite.images.folders import list_images
from suite.images.labels import LabelledImage

NIPS2017 = Path(__file__).resolve().parents[2] / "data" / "nips2017" / "images"


def embedded_images(name: str = "embedded") -> list[LabelledImage]:
    """Return labelled images that need no download, in the order of their names.

    Args:
        name: "embedded" for the 100 of the NIPS 2017 development set that lie in data/, 299 x 299
            pixels, with target classes; "foolbox" for the 20 that the package foolbox carries.

    Raises:
        FileNotFoundError: they are not on this machine.
    """
    return {"embedded": lambda: list_images(NIPS2017), "foolbox": _foolbox}[name]()


def _foolbox() -> list[LabelledImage]:
    package = importlib.util.find_spec("foolbox")
    if package is None:
        raise FileNotFoundError("foolbox's images come with that package: pip install foolbox")
    files = sorted((Path(package.origin).parent / "data").glob("imagenet_*.jpg"))
    return [LabelledImage(f, f"{f.stem}.png", int(f.stem.rpartition("_")[2])) for f in files]
