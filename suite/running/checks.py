"""Cheap warnings and refusals where a measurement would mislead."""

import contextlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import PIL.Image
import torch
from torch import Tensor

from suite.images import LABELS, LabelledImage, read, size_error
from suite.running import defended
from suite.running.runs import settings

logger = logging.getLogger(__name__)


def warn_of_probabilities(arch: str, logits: Tensor) -> None:
    """Warn if a network, N x 3 x H x W to N x classes, seems to return probabilities."""
    one = torch.ones(len(logits), device=logits.device)
    if (logits >= 0).all() and torch.allclose(logits.sum(1), one, atol=1e-3):
        logger.warning(
            "%s seems to return probabilities, not logits: their gradients vanish where the "
            "network is sure, and attacks on it look weaker than they are",
            arch,
        )


def warn_of_accuracy(arch: str, records: list[dict]) -> None:
    """Warn if a network's `answer` is hardly ever the `label` of natural images."""
    enough = 0.4 * len(records)
    right = sum(record["answer"] == record["label"] for record in records)
    if right >= enough:
        return
    hint = "wrong labels, or preprocessing that is not the network's?"
    if sum(record["answer"] == record["label"] - 1 for record in records) >= enough:
        hint = "do the labels count from 1? They must count from 0"
    elif sum(record["answer"] == record["label"] + 1 for record in records) >= enough:
        hint = "does its first class stand for the background? Classes must count from 0 without it"
    logger.warning("%s is right on %d of %d natural images: %s", arch, right, len(records), hint)


def refuse_other_classes(arch: str, classes: int, listed: Iterable[LabelledImage]) -> None:
    """Raise a ValueError if a label or a target class is beyond the classes of a network."""
    if classes == 1001:
        logger.warning(
            "%s has 1001 classes: if the first is the background, as TF-Slim's, ImageNet's labels "
            "are one too low for it",
            arch,
        )
    for image in listed:
        for what, index in (("label", image.label), ("target class", image.target)):
            if index is not None and index >= classes:
                raise ValueError(
                    f"{image.path}: its {what} is {index}, but {arch} has {classes} classes only, "
                    f"0 to {classes - 1}"
                )


def refuse_own_targets(listed: Iterable[LabelledImage]) -> None:
    """Raise a ValueError if a target class is the label: being right would count as a success."""
    for image in listed:
        if image.target is not None and image.target == image.label:
            raise ValueError(f"{image.path}: its target class {image.target} is its label")


def warn_of_other_files(file: Path, size: list[int] | None) -> None:
    """Warn if an adversarial image is no PNG, or not of the width and height that was written."""
    with contextlib.suppress(OSError), PIL.Image.open(file) as image:
        if image.format != "PNG":
            logger.warning("%s is a %s: it washes perturbations out", file, image.format)
        if size and list(image.size) != size:
            logger.warning("%s has the size %s, but was written as %s", file, image.size, size)


def refuse_no_answer(arch: str, answers: list[int]) -> None:
    """Raise a ValueError if a network's logits were not finite, for which its answer is -1."""
    if -1 in answers:
        raise ValueError(f"{arch} answers with logits that are not finite: are its weights broken?")


def note_abstentions(arch: str, folder: Path | None, answers: list[int], classes: int) -> None:
    """Say how many images of a folder, None being the natural ones, a network had no answer to."""
    none = answers.count(classes)
    if none:
        where = "natural images" if folder is None else f"images of {folder}"
        logger.warning("%s abstains on %d of %d %s", arch, none, len(answers), where)


def refuse_not_finite(pixels: Tensor, names: list[str]) -> None:
    """Raise a ValueError that names the images, N x 3 x H x W, with pixels that are not finite."""
    broken = (~pixels.isfinite()).flatten(1).any(1).tolist()
    if any(broken):
        named = ", ".join(name for name, b in zip(names, broken, strict=True) if b)
        raise ValueError(f"the gradient is not finite at {sum(broken)} images: {named}")


def refuse_too_far(
    attack: str, pixels: Tensor, natural: Tensor, epsilon: float, names: list[str]
) -> None:
    """Raise a ValueError that names the image, N x 3 x H x W, that an attack took out of bounds.

    Args:
        epsilon: in 1/255; a hundredth of a level further is rounding.
    """
    apart = 255 * (pixels - natural).abs().flatten(1).amax(1)
    outside = 255 * torch.maximum(-pixels, pixels - 1).flatten(1).amax(1)
    for name, distance, beyond in zip(names, apart.tolist(), outside.tolist(), strict=True):
        if not distance <= epsilon + 0.01:  # nor where it is not a number
            raise ValueError(
                f"{attack} takes {name} {distance:.2f}/255 away, and epsilon is {epsilon:g}/255"
            )
        if beyond > 0.01:
            raise ValueError(f"{attack} takes pixels of {name} {beyond:.2f}/255 out of [0, 1]")


def warn_of_unchanged(records: list[dict]) -> None:
    """Warn of images that an attack did not change; `records` as of `attack.Crafter`."""
    for moved, why in (
        (None, "nothing was changed at"),
        (False, "the gradient is zero at"),
        (True, "the perturbation is under half a level, 0.5/255, at"),
    ):
        names = [r["image"].name for r in records if r["change"] == 0 and r["moved"] is moved]
        if names:
            shown = ", ".join(names[:10]) + ", ..." * (len(names) > 10)
            logger.warning("%s %d images, which stay as they are: %s", why, len(names), shown)


def warn_of_absent_labels(labels: int, targets: int, seed: int) -> None:
    """Warn of numbers of images that had no label, or no target class in a targeted attack."""
    if labels:
        logger.warning("%d images have no label: took what the source predicts", labels)
    if targets:
        logger.warning("%d images have no target class: drew one with seed %d", targets, seed)


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
    return json.dumps(settings(run) | dict.fromkeys(("seed", *without)), sort_keys=True)


def refuse_unlabelled(folder: Path, listed: list[LabelledImage], targeted: bool) -> None:
    """Raise a ValueError if an image lacks its label or, of a targeted attack, its target class."""
    for image in listed:
        if image.label is None or (targeted and image.target is None):
            other = "evaluate.py also takes those of --nat-dir"
            raise ValueError(f"{folder} has no labels: it needs a {LABELS} ({other})")


def refuse_unpaired(
    folder: Path, listed: list[LabelledImage], natural: Path, naturals: dict[str, LabelledImage]
) -> None:
    """Raise a ValueError if an image has no natural one of its name and label, and the first none
    of its size; none are wanted where `naturals` is empty."""
    for image in listed if naturals else ():
        if image.name not in naturals:
            raise ValueError(f"{natural} has no {image.name}, but {folder} has")
        label = naturals[image.name].label
        if label is not None and label != image.label:
            raise ValueError(
                f"{image.name} has the label {label} in {natural}, but {image.label} in {folder}: "
                "does one of them count from 1, or stand in another order?"
            )
    if naturals:
        pair = [(i.path, read(i).size) for i in (listed[0], naturals[listed[0].name])]
        if pair[0][1] != pair[1][1]:
            raise ValueError(size_error(*pair))


def warn_of_batch_dependence(arch: str) -> None:
    """Warn of a network that answers an image otherwise alone than in a batch."""
    logger.warning(
        "%s answers an image otherwise alone than in a batch: its numbers depend on --batch-size "
        "(has it a batch norm without running statistics?)",
        arch,
    )


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
        if any(source.endswith(f"+{defended.bare(arch)}") for source in crafted_on)
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
