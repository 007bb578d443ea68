"""The targets' answers to folders of adversarial images, and how often these fool the targets."""

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

# By folder (None for the natural images), target and image name.
Answers = dict[Path | None, dict[str, dict[str, Answer]]]


def classify(
    folders: dict[Path, list[LabelledImage]],
    naturals: dict[str, LabelledImage],
    targets: Targets,
    batch_size: int,
    workers: int,
    visibility: Callable[[Tensor, Tensor], list[dict[str, float]]] | None = None,
) -> tuple[Answers, dict[Path, dict[str, dict[str, float]]]]:
    """Return the targets' answers, and how far images are from the natural ones.

    The distances are by folder, image name and measure. Each image is read once, after the natural
    image of its name.

    Args:
        naturals: by name; without any, there are no distances.
        visibility: measures more than `linf`, the largest change of a pixel, in 1/255.

    Raises:
        ValueError: an image does not have the size of its natural image.
    """
    shelves = {None: naturals}
    shelves |= {f: {image.name: image for image in listed} for f, listed in folders.items()}
    names = sorted({name for folder in folders for name in shelves[folder]})
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
        listed, measured = [image.name for image in batch], {}
        if folder is None:
            natural = dict(zip(listed, pixels, strict=True))
        elif natural:
            theirs = torch.stack([natural[name] for name in listed])
            if pixels.shape != theirs.shape:
                paths = batch[0].path, naturals[batch[0].name].path
                sizes = ((each.shape[3], each.shape[2]) for each in (pixels, theirs))
                raise ValueError(size_error(*zip(paths, sizes, strict=True)))
            apart = torch.maximum(pixels, theirs) - torch.minimum(pixels, theirs)
            largest = apart.flatten(1).amax(1)
            linf = zip(listed, largest.tolist(), strict=True)
            measured = {name: {"linf": change} for name, change in linf}
            if visibility:
                for change, more in zip(measured.values(), visibility(pixels, theirs), strict=True):
                    change |= more
        found.append((folder, listed, said, measured))

    answers = {folder: {arch: {} for arch in targets.networks} for folder in shelves}
    changes = {folder: {} for folder in shelves}
    for folder, listed, said, measured in itertools.chain(*ranks.gather(found)):
        for arch, own in said.items():
            answers[folder][arch] |= zip(listed, own, strict=True)
        changes[folder] |= measured
    for folder, by_arch in answers.items():
        for arch, by_name in by_arch.items():
            classes = [answer.index for answer in by_name.values()]
            note_abstentions(arch, folder, classes, targets.networks[arch].classes)
    return answers, changes


def successes(
    listed: list[LabelledImage], answers: dict[str, Answer], targeted: bool
) -> dict[str, bool]:
    """Return by name whether images fool the target that gave the answers.

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
    targeted: bool,
) -> list[dict]:
    """Return what `plots.write_gallery` shows of a few images.

    Args:
        targeted: whether the images' target classes were wanted, not just any class but the label.
    """
    examples = []
    for image in listed:
        pair = [to_pixels(read_image(i.path)) for i in (naturals[image.name], image)]
        both = to_float(torch.stack(pair).to(device))

        def texts(arch: str, model: Classifier, image=image, both=both) -> list[tuple[str, bool]]:
            """Return the predicted classes with their probabilities, and whether they are right."""
            best = targets.logits(model, [image.name] * 2, both).softmax(1).max(1)
            pairs = zip(*(each.tolist() for each in best), strict=True)
            return [
                (f"{model.class_name(index)} {100 * share:.0f} %", index == image.label)
                for share, index in pairs
            ]

        answers = targets.each(texts)
        names = {model.class_name(image.label) for model in targets.networks.values()}
        label = names.pop() if len(names) == 1 else f"class {image.label}"
        if targeted:
            label += f", target class {image.target}"
        examples.append({"label": label, "pixels": pair, "answers": answers})
    return examples
