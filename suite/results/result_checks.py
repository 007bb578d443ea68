"""Refusals and warnings where a comparison or a rate would mislead."""

import itertools
import json
import logging
from collections.abc import Sequence
from pathlib import Path

from suite.defences.defence_names import undefended_name
from suite.images.labels import LABELS, RUN, SUITE_LABELS, LabelFile, LabelledImage
from suite.running.runs import run_settings

logger = logging.getLogger(__name__)


def repeat_of(folder: Path, run: dict, without: Sequence[str] = ()) -> str:
    """Return a text that is equal for folders that differ in the random seed alone.

    Args:
        run: the folder's run.json; without one, a folder is no other's repeat.
        without: options in which the folders may differ as well.
    """
    if not run:
        return str(folder.resolve())
    return json.dumps(run_settings(run) | dict.fromkeys(("seed", *without)), sort_keys=True)


def is_targeted(folder: Path, run: dict, listed: list[LabelledImage]) -> bool:
    """Return whether success is the target class, and not just any class but the label.

    Without a run.json, the labels.csv in the folder says so: attack_iter.py gives it a column
    `target` for a targeted attack alone. Other columns of targets are those of a data set, as is
    `target` where select_images.py wrote it, beside the column `source`.
    """
    if "targeted" in run or all(image.target is None for image in listed):
        return run.get("targeted", False)
    file = folder / LABELS
    rows = LabelFile(file, SUITE_LABELS).rows if file.is_file() else {}
    targeted = any(row.get("target") and "source" not in row for row in rows.values())
    how = f"a targeted attack, since its {LABELS} names targets"
    if not targeted:
        how = f"an untargeted attack, although its images have targets: a {LABELS} in it with the "
        how += "column target makes it a targeted one"
    logger.warning("%s has no %s: it counts as %s", folder, RUN, how)
    return targeted


def refuse_unfinished(folder: Path, run: dict) -> None:
    """Raise a ValueError if run.json says that a folder's run was interrupted."""
    if run.get("status") == "running":
        raise ValueError(f"the run in {folder} is not finished: give its command again")


def refuse_unlike_repeats(made: dict[Path, dict], folders: dict[Path, list[LabelledImage]]) -> None:
    """Raise a ValueError if two repeats have the same random seed, or not the same images.

    Args:
        made: run.json by folder, empty where there is none; a copy of a folder has the same.
    """
    settings = {folder: repeat_of(folder, run) for folder, run in made.items()}
    for other, folder in itertools.combinations(made, 2):
        if settings[other] != settings[folder]:
            continue
        if made[other].get("seed") == made[folder].get("seed"):
            raise ValueError(f"{other} and {folder} are the same run: repeats need other seeds")
        names, its_names = ({image.name for image in folders[f]} for f in (folder, other))
        if names != its_names:
            raise ValueError(
                f"{other} and {folder} are repeats, but of other images: only one of them has "
                f"{min(names ^ its_names)}"
            )


def refuse_incomparable(
    folder: Path,
    baseline: Path,
    folders: dict[Path, list[LabelledImage]],
    targeted: dict[Path, bool],
) -> None:
    """Raise a ValueError if a folder and its baseline differ in their images or kind of success."""
    if targeted[folder] != targeted[baseline]:
        kinds = {True: "is targeted", False: "is not"}
        raise ValueError(
            f"{folder} {kinds[targeted[folder]]}, but {baseline} {kinds[targeted[baseline]]}: "
            "their successes can't be compared"
        )
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
    """Warn if all images equal the natural ones; raise a ValueError if one is beyond epsilon."""
    if largest == 0:
        logger.warning("%s: every image equals the natural one: nothing was attacked", folder)
    if epsilon is not None and largest > epsilon:
        raise ValueError(
            f"{folder}: a pixel is {largest}/255 from the natural one, and run.json says epsilon "
            f"{epsilon:g}/255"
        )


def warn_of_white_box(folder: Path, run: dict, networks: dict) -> None:
    """Warn of the networks, by name, on which a folder's images were crafted."""
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
    """Warn of a network that abstains on images of a folder; None stands for the natural ones."""
    abstentions = answers.count(classes)
    if abstentions:
        where = "natural images" if folder is None else f"images of {folder}"
        logger.warning("%s abstains on %d of %d %s", arch, abstentions, len(answers), where)
