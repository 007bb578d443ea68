"""What target networks answer to folders of adversarial images, and how often they are fooled."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from suite.images.folders import in_batches
from suite.images.labels import LabelledImage
from suite.images.pictures import read, read_batches, size_error, to_float, to_pixels
from suite.networks.classifier import Classifier
from suite.results.result_checks import note_abstentions
from suite.results.targets import Answer, Targets
from suite.running import cli, ranks

# By folder, target and image name; answers to the natural images have the folder None.
Answers = dict[Path | None, dict[str, dict[str, Answer]]]
# By folder and image name, how far it is from the natural one: see `visibility.Visibility`.
Changes = dict[Path, dict[str, dict[str, float]]]


def classify(
    folders: dict[Path, list[LabelledImage]],
    naturals: dict[str, LabelledImage],
    targets: Targets,
    batch_size: int,
    workers: int,
    visibility: Callable[[Tensor, Tensor], list[dict[str, float]]] | None = None,
) -> tuple[Answers, Changes]:
    """Return the targets' answers, and how far images are from the natural ones.

    Each image is read once, with those of its name in other folders.

    Args:
        folders: the adversarial images.
        naturals: by name; empty if they are not wanted, and then there are no changes.
        workers: processes that decode images.
        visibility: what else to measure of a change than `linf`, its largest, in 1/255.
    """
    by_name = {
        folder: {image.name: image for image in listed} for folder, listed in folders.items()
    }
    names = sorted({name for shelf in by_name.values() for name in shelf})
    shelves = {None: naturals} | by_name
    batches = [
        (folder, batch)
        for part in ranks.share(in_batches(names, batch_size))
        for folder, shelf in shelves.items()
        if (batch := [shelf[name] for name in part if name in shelf])
    ]
    total = sum(name in shelf for name in names for shelf in shelves.values())
    read = read_batches([batch for _, batch in batches], workers)

    answers = {folder: {arch: {} for arch in targets.networks} for folder in shelves}
    changes, natural = {folder: {} for folder in folders}, {}
    answered = targets.answers(cli.progress(read, total))
    for (folder, _), (batch, own, said) in zip(batches, answered, strict=True):
        listed = [image.name for image in batch]
        for arch, mine in said.items():
            answers[folder][arch] |= zip(listed, mine, strict=True)
        if folder is None:
            natural = dict(zip(listed, own, strict=True))
        elif natural:
            for image, mine in zip(batch, own, strict=True):
                theirs = natural[image.name]
                if mine.shape != theirs.shape:
                    pairs = ((image.path, mine), (naturals[image.name].path, theirs))
                    sizes = [(path, (each.shape[2], each.shape[1])) for path, each in pairs]
                    raise ValueError(size_error(*sizes))
                linf = (mine.int() - theirs.int()).abs().max().item()
                changes[folder][image.name] = {"linf": linf}
            if visibility:
                more = visibility(own, torch.stack([natural[name] for name in listed]))
                for name, measured in zip(listed, more, strict=True):
                    changes[folder][name] |= measured
    answers, changes = _merged(ranks.gather((answers, changes)))
    for folder, by_arch in answers.items():
        for arch, said in by_arch.items():
            given = [answer.index for answer in said.values()]
            note_abstentions(arch, folder, given, targets.networks[arch].classes)
    return answers, changes


def _merged(shares: list[tuple[Answers, Changes]]) -> tuple[Answers, Changes]:
    """Return what all ranks found as one."""
    answers, changes = shares[0]
    for more, further in shares[1:]:
        for folder, by_arch in more.items():
            for arch, said in by_arch.items():
                answers[folder][arch] |= said
        for folder, by_name in further.items():
            changes[folder] |= by_name
    return answers, changes


def successes(
    listed: list[LabelledImage], answers: dict[str, Answer], targeted: bool
) -> dict[str, bool]:
    """Return by name whether a target, whose answers these are, is fooled by a folder's images.

    Args:
        targeted: success is the image's target class, not just another one than its label.
    """
    return {
        image.name: (
            answers[image.name].index == image.target
            if targeted
            else answers[image.name].index != image.label
        )
        for image in listed
    }


def count_successes(
    listed: list[LabelledImage], fooled: dict[str, bool], natural: dict[str, Answer]
) -> dict[str, int]:
    """Count a folder's successes on one target, and more if `natural` is not empty.

    Args:
        fooled: of `successes`.
        natural: the target's answers to the natural images.
    """
    counts = {"succeeded": sum(fooled.values())}
    if natural:
        correct = {image.name for image in listed if natural[image.name].index == image.label}
        counts["correct"] = len(correct)
        counts["succeeded_on_correct"] = sum(fooled[name] for name in correct)
    return counts


def gallery_examples(
    listed: list[LabelledImage],
    naturals: dict[str, LabelledImage],
    targets: Targets,
    device: str,
) -> list[dict]:
    """Return what the gallery shows of a few images: their pixels and each target's answers."""
    shown = []
    for image in listed:
        pair = [to_pixels(read(i)) for i in (naturals[image.name], image)]
        both = to_float(torch.stack(pair).to(device))
        logits = targets.each(
            lambda _, model, both=both, image=image: targets.logits(model, [image.name] * 2, both)
        )
        answers = {arch: _confident(targets.networks[arch], each) for arch, each in logits.items()}
        names = {model.class_name(image.label) for model in targets.networks.values()}
        label = names.pop() if len(names) == 1 else f"class {image.label}"
        shown.append({"label": label, "pixels": pair, "answers": answers})
    return shown


def _confident(model: Classifier, logits: Tensor) -> list[str]:
    """Return the predicted class of each image and its confidence, as text."""
    return [
        f"{model.class_name(index)} {100 * share:.0f} %"
        for share, index in zip(*(each.tolist() for each in logits.softmax(1).max(1)), strict=True)
    ]
