"""Refusals and warnings where a comparison or a rate would mislead."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from suite.defences.defence_names import undefended_name
from suite.images.labels import LabelledImage
from suite.running.runs import run_settings

logger = logging.getLogger(__name__)


def repeat_of(folder: Path, run: dict, without: Sequence[str] = ()) -> str:
    """Return a text that is equal for folders that differ in the random seed alone.

    Args:
        run: the folder's run.json; without one, a folder is no other's repeat.
        without: other options in which the folders may differ as well.
    """
    if not run:
        return str(folder.resolve())
    return json.dumps(run_settings(run) | dict.fromkeys(("seed", *without)), sort_keys=True)


def refuse_unfinished(folder: Path, run: dict) -> None:
    """Raise a ValueError if run.json says that a folder's run was interrupted."""
    if run.get("status") == "running":
        raise ValueError(f"the run in {folder} is not finished: give its command again")


def refuse_unlike_repeats(made: dict[Path, dict], folders: dict[Path, list[LabelledImage]]) -> None:
    """Raise a ValueError if two repeats have the same random seed, or not the same images.

    Args:
        made: run.json by folder, empty where there is none; a copy of a folder has the same.
        folders: the images of each folder.
    """
    repeats = {}
    for folder, run in made.items():
        earlier = repeats.setdefault(repeat_of(folder, run), [])
        for other in earlier:
            if run.get("seed") == made[other].get("seed"):
                raise ValueError(f"{other} and {folder} are the same run: repeats need other seeds")
            names, its_names = ({i.name for i in folders[f]} for f in (folder, other))
            if names != its_names:
                raise ValueError(
                    f"{other} and {folder} are repeats, but of other images: only one of them has "
                    f"{min(names ^ its_names)}"
                )
        earlier.append(folder)


def refuse_incomparable(
    folder: Path, baseline: Path, folders: dict[Path, list[LabelledImage]]
) -> None:
    """Raise a ValueError if a folder and its baseline do not seem to be of the same images.

    Args:
        folders: the images of each folder.
    """
    labels, theirs = ({image.name: image.label for image in folders[f]} for f in (folder, baseline))
    common = sorted(labels.keys() & theirs.keys())
    if not common:
        raise ValueError(f"{folder} and {baseline} have no image in common: what is to compare?")
    for name in common:
        if labels[name] != theirs[name]:
            raise ValueError(
                f"{name} has the label {labels[name]} in {folder}, but {theirs[name]} in {baseline}"
                ": are these other images?"
            )


def check_perturbation(folder: Path, largest: int, epsilon: float | None) -> None:
    """Warn if no image of an attack differs from the natural one, and refuse more than epsilon.

    Raises:
        ValueError: a pixel is further from the natural one than run.json's epsilon.
    """
    if largest == 0:
        logger.warning("%s: every image equals the natural one: nothing was attacked", folder)
    if epsilon is not None and largest > epsilon:
        raise ValueError(
            f"{folder}: a pixel is {largest}/255 from the natural one, and run.json says epsilon "
            f"{epsilon:g}/255"
        )


def warn_of_white_box(folder: Path, run: dict, networks: dict) -> None:
    """Warn of targets, by name, on which a folder's images were crafted."""
    digests = set(run.get("weights", {}).values())
    # Sources may have defences in front, too, and names that mean nothing on this machine.
    sources = [f"+{source}" for source in run.get("options", {}).get("arch") or []]
    # The same architecture with other weights is a target like any other.
    same = [
        arch
        for arch, model in networks.items()
        if any(source.endswith(f"+{undefended_name(arch)}") for source in sources)
        and digests >= set(model.digests.values())
    ]
    if same:
        logger.warning("%s was crafted on %s: white-box, no transfer", folder, ", ".join(same))


def note_abstentions(arch: str, folder: Path | None, answers: list[int], classes: int) -> None:
    """Say on how many images of a folder, None being the natural ones, a network abstains."""
    abstentions = answers.count(classes)
    if abstentions:
        where = "natural images" if folder is None else f"images of {folder}"
        logger.warning("%s abstains on %d of %d %s", arch, abstentions, len(answers), where)
