"""What the targets answer to folders of adversarial images, and how often they are fooled."""

import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from suite.images.folders import in_batches
from suite.images.labels import LabelledImage
from suite.images.pictures import read_batches, read_image, size_error, to_float, to_pixels
from suite.networks.classifier import Classifier
from suite.results.result_checks import note_abstentions
from suite.results.targets import Answer, Targets
from suite.running import cli, ranks

# By folder, target and image name; answers to the natural images have the folder None.
Answers = dict[Path | None, dict[str, dict[str, Answer]]]
# How far images are from the natural ones: by folder, image name and measure.
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

    Each image is read once, after the natural image of its name.

    Args:
        folders: the adversarial images.
        naturals: by name; if there are none, there are no changes.
        workers: threads that decode images.
        visibility: measures more of a change than `linf`, its largest, in 1/255.

    Raises:
        ValueError: an image does not have the size of its natural image.
    """
    shelves = {None: naturals}
    for folder, listed in folders.items():
        shelves[folder] = {image.name: image for image in listed}
    names = sorted({image.name for listed in folders.values() for image in listed})
    batches = [
        (folder, batch)
        for part in ranks.share(in_batches(names, batch_size))
        for folder, shelf in shelves.items()
        if (batch := [shelf[name] for name in part if name in shelf])
    ]
    total = sum(name in shelf for name in names for shelf in shelves.values())
    read = cli.progress(read_batches([batch for _, batch in batches], workers), total)

    found, natural = [], {}
    for (folder, _), (batch, pixels, said) in zip(batches, targets.answers(read), strict=True):
        measured = []
        if folder is None:
            natural = dict(zip((image.name for image in batch), pixels, strict=True))
        elif natural:
            theirs = torch.stack([natural[image.name] for image in batch])
            if pixels.shape != theirs.shape:
                paths = batch[0].path, naturals[batch[0].name].path
                sizes = ((each.shape[3], each.shape[2]) for each in (pixels, theirs))
                raise ValueError(size_error(*zip(paths, sizes, strict=True)))
            largest = (pixels.short() - theirs.short()).abs().amax((1, 2, 3))
            measured = [{"linf": linf} for linf in largest.tolist()]
            if visibility:
                more = visibility(pixels, theirs)
                measured = [m | others for m, others in zip(measured, more, strict=True)]
        found.append((folder, [image.name for image in batch], said, measured))

    answers = {folder: {arch: {} for arch in targets.networks} for folder in shelves}
    changes = {folder: {} for folder in folders}
    for folder, listed, said, measured in itertools.chain(*ranks.gather(found)):
        for arch, own in said.items():
            answers[folder][arch] |= zip(listed, own, strict=True)
        if measured:
            changes[folder] |= zip(listed, measured, strict=True)
    for folder, by_arch in answers.items():
        for arch, by_name in by_arch.items():
            classes = [answer.index for answer in by_name.values()]
            note_abstentions(arch, folder, classes, targets.networks[arch].classes)
    return answers, changes


def successes(
    listed: list[LabelledImage], answers: dict[str, Answer], targeted: bool
) -> dict[str, bool]:
    """Return by name whether a folder's images fool the target whose answers these are.

    Args:
        targeted: success is the image's target class, not just any class but its label.
    """
    if targeted:
        return {image.name: answers[image.name].index == image.target for image in listed}
    return {image.name: answers[image.name].index != image.label for image in listed}


def count_successes(
    listed: list[LabelledImage], fooled: dict[str, bool], natural: dict[str, Answer]
) -> dict[str, int]:
    """Count a folder's successes on one target, for `rates.merge_repeats`.

    Args:
        fooled: what `successes` returns.
        natural: the target's answers to the natural images; may be empty.
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
    """Return what `plots.write_gallery` shows of a few images."""
    examples = []
    for image in listed:
        pair = [to_pixels(read_image(i.path)) for i in (naturals[image.name], image)]
        both = to_float(torch.stack(pair).to(device))

        def texts(arch: str, model: Classifier, name=image.name, both=both) -> list[str]:
            """Return the predicted classes and their probabilities."""
            best = targets.logits(model, [name] * 2, both).softmax(1).max(1)
            pairs = zip(*(each.tolist() for each in best), strict=True)
            return [f"{model.class_name(index)} {100 * share:.0f} %" for share, index in pairs]

        answers = targets.each(texts)
        names = {model.class_name(image.label) for model in targets.networks.values()}
        label = names.pop() if len(names) == 1 else f"class {image.label}"
        examples.append({"label": label, "pixels": pair, "answers": answers})
    return examples
