"""What networks answer, and which classes they have: refusals, warnings, labels by name."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from suite.images.labels import LabelledImage, printable
from suite.networks.classifier import Classifier, predict_logits

logger = logging.getLogger(__name__)


def warn_of_answers(arch: str, network: nn.Module, pixels: Tensor) -> None:
    """Warn if a network returns probabilities, draws at random, or mixes the images of a batch.

    Args:
        pixels: float in [0, 1], N x 3 x H x W, of which the first two are looked at.
    """
    logits = predict_logits(network, pixels[:2])
    warn_of_probabilities(arch, logits)
    if _differ(logits, predict_logits(network, pixels[:2]), 1e-3):
        logger.warning(
            "%s answers the same images differently in two passes: it draws random numbers in "
            "evaluation mode (as F.dropout does without training=self.training). They depend on "
            "--seed, the images' names and --batch-size, unless it has generators of its own",
            arch,
        )
    # What bf16 rounds differs by 0.02.
    elif len(pixels) > 1 and _differ(predict_logits(network, pixels[:1]), logits[:1], 0.05):
        logger.warning(
            "%s answers an image differently alone than in a batch: its numbers depend on "
            "--batch-size (does it have a batch norm without running statistics?)",
            arch,
        )


def _differ(logits: Tensor, others: Tensor, share: float) -> bool:
    return bool((logits - others).abs().max() > share * others.abs().max())


def warn_of_probabilities(arch: str, logits: Tensor) -> None:
    """Warn if all logits, N x classes, are in [0, 1], as a softmax or a sigmoid leaves them."""
    if ((logits >= 0) & (logits <= 1)).all():
        logger.warning(
            "%s seems to return probabilities (of a softmax or a sigmoid), not logits: their "
            "gradients vanish where it is sure, and attacks on it look weaker than they are; as a "
            "target, its probabilities are wrong",
            arch,
        )


def warn_of_accuracy(arch: str, records: list[dict]) -> None:
    """Warn if a network's `answer` is hardly ever the `label` of natural images."""
    differences = Counter(record["answer"] - record["label"] for record in records)
    right, enough = differences[0], 0.4 * len(records)
    if right >= enough:
        return
    hint = "wrong labels, or preprocessing that is not the network's?"
    if differences[-1] >= enough:
        hint = "do the labels count from 1? They must count from 0"
    elif differences[1] >= enough:
        hint = "does its first class stand for the background? Classes must count from 0 without it"
    logger.warning("%s is right on %d of %d natural images: %s", arch, right, len(records), hint)


def by_class_names(
    networks: Mapping[str, Classifier], listed: list[LabelledImage]
) -> list[LabelledImage]:
    """Return images with the labels that networks' class names give to their class folders.

    Only folders that count by their place among the sorted names are looked up.

    Raises:
        ValueError: a network has classes of some of the folders' names but not of all, or two
            networks have a class at different places.
    """
    folders = sorted({image.class_folder for image in listed if image.class_folder})
    labels = {}
    for arch, network in networks.items() if folders else ():
        names = [_plain(name) for name in network.class_names]
        indices = {name: index for index, name in enumerate(names) if names.count(name) == 1}
        found = {f: indices[_plain(f.name)] for f in folders if _plain(f.name) in indices}
        for folder in folders if found else ():
            if folder not in found:
                raise ValueError(
                    f"{printable(folder)} is not the name of one class of {arch}, as other "
                    f"folders are; its classes are called {names[0]} to {names[-1]}"
                )
            if labels.setdefault(folder, found[folder]) != found[folder]:
                raise ValueError(
                    f"{printable(folder)} is class {found[folder]} of {arch}, but "
                    f"{labels[folder]} of another network"
                )
        if found and any(image.label != found.get(image.class_folder) for image in listed):
            logger.warning(
                "%s: its folders get the classes of their names in %s instead",
                folders[0].parent,
                arch,
            )
    return [
        replace(image, label=labels[image.class_folder], class_folder=None)
        if image.class_folder in labels
        else image
        for image in listed
    ]


def _plain(name: str) -> str:
    """Return a class's name as it is compared with others."""
    return name.casefold().replace("_", " ")


def refuse_other_classes(
    arch: str, classes: int, listed: Iterable[LabelledImage], others: Iterable[int] = ()
) -> None:
    """Raise a ValueError if a label or a target class is beyond the classes of a network.

    Or if the labels fit better to one of its other outputs, which have `others` values. Or if class
    folders that count by their order are fewer: which of them is missing?
    """
    indices = [index for image in listed for index in (image.label, image.target)]
    largest = max((index for index in indices if index is not None), default=-1)
    fitting = [number for number in others if 0 <= largest < number]
    if fitting and not largest < classes <= min(fitting):
        raise ValueError(
            f"{arch} returns several outputs: {classes} values, which would be taken for the "
            f"logits, and {min(fitting)}, which fit the labels, 0 to {largest}: return the logits "
            "alone, or in a dict under logits"
        )
    if 0 <= largest < classes - 1 and classes != 1000:
        logger.info("%s has %d classes, and the labels go up to %d", arch, classes, largest)
    if classes == 1001:
        logger.warning(
            "%s has 1001 classes: if the first is the background, as TF-Slim's, ImageNet's labels "
            "are one too low for it",
            arch,
        )
    folders = {image.class_folder for image in listed if image.class_folder}
    if folders and len(folders) < classes:
        raise ValueError(
            f"{min(folders).parent} has {len(folders)} class folders, but {arch} has {classes} "
            "classes: sorted by name, those behind a missing one would count too low; name the "
            "folders by class index (0, 1, ...), or give a labels.csv"
        )
    for image in listed:
        for what, index in (("label", image.label), ("target class", image.target)):
            if index is not None and index >= classes:
                raise ValueError(
                    f"{image.path}: its {what} is {index}, but {arch} has {classes} classes only, "
                    f"0 to {classes - 1}"
                )


def refuse_no_answer(arch: str, answers: list[int]) -> None:
    """Raise a ValueError if an answer is -1, which stands for logits that are not finite."""
    if -1 in answers:
        raise ValueError(f"{arch} answers with logits that are not finite: are its weights broken?")
