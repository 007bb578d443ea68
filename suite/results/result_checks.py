"""Refusals and warnings where a comparison or a rate would mislead."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from suite.defences import defence_names
from suite.running.runs import run_settings

logger = logging.getLogger(__name__)


def note_abstentions(arch: str, folder: Path | None, answers: list[int], classes: int) -> None:
    """Say how many images of a folder, None being the natural ones, a network had no answer to."""
    none = answers.count(classes)
    if none:
        where = "natural images" if folder is None else f"images of {folder}"
        logger.warning("%s abstains on %d of %d %s", arch, none, len(answers), where)


def refuse_unfinished(folder: Path, run: dict) -> None:
    """Raise a ValueError if the run that wrote a folder, of which `run` is run.json, goes on."""
    if run.get("status") == "running":
        raise ValueError(f"the run in {folder} is not finished: give its command again")


def refuse_unlike_repeats(made: dict[Path, dict], folders: dict[Path, list]) -> None:
    """Raise a ValueError if folders that differ in the seed alone are one run, or of other images.

    Args:
        made: run.json by folder, empty where there is none; a copy of a folder has the same.
        folders: their images.
    """
    known = {}
    for folder, run in made.items():
        repeat, seed = repeat_of(folder, run), run.get("seed")
        for other, its_seed in known.setdefault(repeat, []):
            if seed == its_seed:
                raise ValueError(f"{other} and {folder} are the same run: repeats need other seeds")
            names, its_names = ({i.name for i in folders[f]} for f in (folder, other))
            if names != its_names:
                raise ValueError(
                    f"{other} and {folder} are repeats, but of other images: only one of them has "
                    f"{min(names ^ its_names)}"
                )
        known[repeat].append((folder, seed))


def refuse_incomparable(folder: Path, baseline: Path, folders: dict[Path, list]) -> None:
    """Raise a ValueError if a folder and its baseline seem not to be made of the same images.

    Args:
        folders: the images of all folders.
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


def repeat_of(folder: Path, run: dict, without: Sequence[str] = ()) -> str:
    """Return what is equal in folders that differ in the seed alone, or also in other options."""
    if not run:
        return str(folder.resolve())
    return json.dumps(run_settings(run) | dict.fromkeys(("seed", *without)), sort_keys=True)


def warn_of_natural(folder: Path, largest: int) -> None:
    """Warn if no image of an attack's folder differs from the natural one."""
    if largest == 0:
        logger.warning("%s: every image equals the natural one: nothing was attacked", folder)


def warn_of_white_box(folder: Path, run: dict, networks: dict) -> None:
    """Warn of targets, by name, that are a network that a folder's images were crafted on."""
    known = set(run.get("weights", {}).values())
    # With or without defences in front.
    crafted_on = [f"+{source}" for source in run.get("options", {}).get("arch") or []]
    # The same architecture with other weights is a target like others.
    same = [
        arch
        for arch, model in networks.items()
        if any(source.endswith(f"+{defence_names.undefended_name(arch)}") for source in crafted_on)
        and known >= set(model.digests.values())
    ]
    if same:
        logger.warning("%s was crafted on %s: white-box, no transfer", folder, ", ".join(same))


def refuse_over_epsilon(folder: Path, largest: int, epsilon: float | None) -> None:
    """Raise a ValueError if a pixel is further from the natural one than run.json's epsilon."""
    if epsilon is not None and largest > epsilon:
        raise ValueError(
            f"{folder}: a pixel is {largest}/255 from the natural one, and run.json says epsilon "
            f"{epsilon:g}/255"
        )
