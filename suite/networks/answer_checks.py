"""Refusals and warnings about the answers of networks."""

import logging
from collections import Counter
from collections.abc import Iterable

from torch import Tensor, nn

from suite.images.labels import LabelledImage
from suite.networks.classifier import predict_logits

logger = logging.getLogger(__name__)


def warn_of_probabilities(arch: str, logits: Tensor) -> None:
    """Warn if a network, N x 3 x H x W to N x classes, seems to return probabilities."""
    if (logits >= 0).all() and ((logits.sum(1) - 1).abs() < 1e-3).all():
        logger.warning(
            "%s seems to return probabilities, not logits: their gradients vanish where the "
            "network is sure, and attacks on it look weaker than they are",
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


def refuse_no_answer(arch: str, answers: list[int]) -> None:
    """Raise a ValueError if an answer is -1, which stands for logits that are not finite."""
    if -1 in answers:
        raise ValueError(f"{arch} answers with logits that are not finite: are its weights broken?")


def warn_of_batch_dependence(arch: str, network: nn.Module, pixels: Tensor) -> None:
    """Warn if a network's answer to the first image alone differs from that beside the second.

    Args:
        pixels: float in [0, 1], N x 3 x H x W; a single image shows nothing.
    """
    if len(pixels) < 2:
        return
    alone, together = (predict_logits(network, pixels[:number])[0] for number in (1, 2))
    if (alone - together).abs().max() > 0.05 * together.abs().max():  # bf16 rounds to 0.02
        logger.warning(
            "%s answers an image differently alone than in a batch: its numbers depend on "
            "--batch-size (has it a batch norm without running statistics?)",
            arch,
        )
