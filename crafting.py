"""The sources of an attack, and the attack on one batch: labels, adversarial images, records."""

import logging
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import attacks
import checks
import cli
import images
import models
import runs
import utils_sgm

logger = logging.getLogger(__name__)


def hooks_of(args, arch: str) -> str:
    """Return which hooks SGM takes on a network.

    Where logits are averaged, relu hooks would rescale each network's gradient by itself.
    """
    averaged = len(args.arch) > 1 and args.ensemble == "logits"
    hooks = "branch" if averaged and args.hooks == "auto" else args.hooks
    return utils_sgm.choose_hooks(arch, hooks, args.branches)


def load_sources(args) -> list[models.Classifier]:
    """Return the source networks, each with its SGM hooks."""
    files = cli.checkpoints(args.arch, args.checkpoint)
    networks = [models.load_model(arch, checkpoint=files.get(arch)) for arch in args.arch]
    gammas = args.gamma * (len(args.arch) // len(args.gamma))
    for arch, model, gamma in zip(args.arch, networks, gammas, strict=True):
        handles = utils_sgm.register_sgm(
            model.network, arch, gamma, hooks_of(args, arch), model.input_size, args.branches
        )
        logger.info("%s: gamma %g, %d hooks", arch, gamma, len(handles))
    return networks


@dataclass
class Speed:
    """How many images were crafted in this run, and in how long."""

    images: int = 0
    seconds: float = 0


def craft(
    args,
    batch: list[images.LabelledImage],
    pixels: Tensor,
    source: nn.Module,
    attack: "attacks.advertorch.Attack",
    diversity: attacks.InputDiversity,
    speed: Speed,
) -> list[dict]:
    """Attack and save a batch of images, unless it is there; return a record of each.

    A record is a dict: `image`; `label`; `target`, the class by which success is measured; `answer`
    and `fooled`, what the source answers to the natural and to the adversarial pixels; `change`,
    the largest change of a pixel, in 1/255.

    Args:
        args: the options of attack_iter.py.
        pixels: of the batch, uint8, N x 3 x H x W, on the device.
        source: pixels in [0, 1] to the logits that count for answers and success.
        attack, diversity: the attack, and the DI module that stands in it, if any.
        speed: what the batch adds to is noted there.
    """
    start = time.perf_counter()
    natural = images.to_float(pixels)
    with torch.no_grad():
        logits = source(natural)
    if not speed.images:
        checks.warn_of_probabilities(" + ".join(args.arch), logits)
    answers = logits.argmax(1).tolist()
    labels = [a if i.label is None else i.label for i, a in zip(batch, answers, strict=True)]
    classes = logits.shape[1]
    if max(labels) >= classes:
        raise ValueError(f"label {max(labels)}: the source has {classes} classes only")
    names = [image.name for image in batch]
    generators = attacks.image_generators(args.seed, names)
    targets = labels
    if args.targeted:
        draws = attacks.random_targets(labels, generators, classes)
        targets = [d if i.target is None else i.target for i, d in zip(batch, draws, strict=True)]

    adversarial = runs.finished_batch(args.output_dir, batch, pixels)
    if adversarial is None:
        diversity.generators = generators
        place = None
        if args.rand_init:
            place = attacks.random_start(natural, args.epsilon, generators)
        aims = torch.tensor(targets, device=pixels.device)
        result = attacks.perturb(attack, natural, aims, args.epsilon, place)
        checks.refuse_not_finite(result, names)
        adversarial = images.to_uint8(result, pixels, args.epsilon).cpu()
        for name, png in zip(names, adversarial, strict=True):
            images.write_png(png, args.output_dir / name)
        speed.images += len(batch)
        speed.seconds += time.perf_counter() - start

    fooled = models.predict(source, images.to_float(adversarial.to(pixels.device))).tolist()
    changes = (adversarial.int() - pixels.cpu().int()).abs().flatten(1).amax(1).tolist()
    keys = ("image", "label", "target", "answer", "fooled", "change")
    columns = (batch, labels, targets, answers, fooled, changes)
    return [dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)]


def label_row(args, record: dict) -> dict:
    """Return a row of labels.csv."""
    row = {"filename": record["image"].name, "label": record["label"]}
    return row | {"target": record["target"]} if args.targeted else row
