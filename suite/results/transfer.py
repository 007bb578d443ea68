"""What target networks answer to folders of adversarial images, and how often they are fooled."""

from pathlib import Path

import torch
from torch import Tensor

from suite import images, networks
from suite.results.committee import Committee
from suite.running import cli, ranks

# The class by image name, by target, by folder; answers to the natural images have the folder None.
Answers = dict[Path | None, dict[str, dict[str, int]]]


def classify(
    folders: dict[Path, list[images.LabelledImage]],
    naturals: dict[str, images.LabelledImage],
    targets: Committee,
    batch_size: int,
    workers: int,
) -> tuple[Answers, dict[Path, int]]:
    """Return the targets' answers, and by folder the largest perturbation, in 1/255.

    Each image is read once, with those of its name in other folders.

    Args:
        folders: the adversarial images.
        naturals: by name; empty if they are not wanted.
        workers: processes that decode images.
    """
    by_name = {
        folder: {image.name: image for image in listed} for folder, listed in folders.items()
    }
    names = sorted({name for shelf in by_name.values() for name in shelf})
    shelves = {None: naturals} | by_name
    batches = [
        (folder, batch)
        for part in ranks.share(images.batches(names, batch_size))
        for folder, shelf in shelves.items()
        if (batch := [shelf[name] for name in part if name in shelf])
    ]
    total = sum(name in shelf for name in names for shelf in shelves.values())
    read = images.read_batches([batch for _, batch in batches], workers)

    answers = {folder: {arch: {} for arch in targets.networks} for folder in shelves}
    largest, natural = dict.fromkeys(folders, 0), {}
    answered = targets.answers(cli.progress(read, total))
    for (folder, _), (batch, own, classes) in zip(batches, answered, strict=True):
        for arch, mine in classes.items():
            answers[folder][arch] |= zip((image.name for image in batch), mine, strict=True)
        if folder is None:
            natural = dict(zip((image.name for image in batch), own, strict=True))
        for image, mine in zip(batch, own, strict=True) if natural and folder else ():
            change = images.perturbation(mine, natural[image.name], naturals[image.name].path)
            largest[folder] = max(largest[folder], change)
    return _merged(ranks.gather((answers, largest)))


def _merged(shares: list[tuple[Answers, dict[Path, int]]]) -> tuple[Answers, dict[Path, int]]:
    """Return what all ranks found as one."""
    answers, largest = shares[0]
    for more, larger in shares[1:]:
        for folder, by_arch in more.items():
            for arch, classes in by_arch.items():
                answers[folder][arch] |= classes
        largest = {folder: max(largest[folder], larger[folder]) for folder in largest}
    return answers, largest


def count(
    listed: list[images.LabelledImage],
    answers: dict[str, int],
    natural: dict[str, int],
    targeted: bool,
) -> dict[str, int]:
    """Count a folder's successes on one target, and more if `natural` is not empty.

    Args:
        answers, natural: the target's classes of the adversarial and of the natural images.
        targeted: success is the image's target class, not just another one than its label.
    """
    succeeded = {
        image.name
        for image in listed
        if (answers[image.name] == image.target if targeted else answers[image.name] != image.label)
    }
    counts = {"succeeded": len(succeeded)}
    if natural:
        correct = {image.name for image in listed if natural[image.name] == image.label}
        counts["correct"] = len(correct)
        counts["succeeded_on_correct"] = len(succeeded & correct)
    return counts


def examples(
    listed: list[images.LabelledImage],
    naturals: dict[str, images.LabelledImage],
    targets: Committee,
    device: str,
) -> list[dict]:
    """Return what the gallery shows of a few images: their pixels and each target's answers."""
    shown = []
    for image in listed:
        pair = [images.to_pixels(images.read_image(i.path)) for i in (naturals[image.name], image)]
        both = images.to_float(torch.stack(pair).to(device))
        logits = targets.each(lambda _, model, both=both: networks.logits(model, both))
        answers = {arch: _confident(targets.networks[arch], each) for arch, each in logits.items()}
        names = {model.class_name(image.label) for model in targets.networks.values()}
        label = names.pop() if len(names) == 1 else f"class {image.label}"
        shown.append({"label": label, "pixels": pair, "answers": answers})
    return shown


def _confident(model: networks.Classifier, logits: Tensor) -> list[str]:
    """Return the predicted class of each image and its confidence, as text."""
    return [
        f"{model.class_name(index)} {100 * share:.0f} %"
        for share, index in zip(*(each.tolist() for each in logits.softmax(1).max(1)), strict=True)
    ]
