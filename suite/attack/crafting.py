"""The sources of an attack, and the attack on one batch: labels, adversarial images, records."""

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

import attacks
import checks
import cli
import devices
import images
import models
import pictures
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


def load_sources(args, device: str) -> list[models.Classifier]:
    """Return the source networks on their device, each with its SGM hooks."""
    files = cli.checkpoints(args.arch, args.checkpoint)
    networks = [models.load_model(arch, checkpoint=files.get(arch)) for arch in args.arch]
    gammas = args.gamma * (len(args.arch) // len(args.gamma))
    for arch, model, gamma in zip(args.arch, networks, gammas, strict=True):
        model.accelerate(args.precision).to(device)
        handles = utils_sgm.register_sgm(
            model.network, arch, gamma, hooks_of(args, arch), model.input_size, args.branches
        )
        logger.info("%s: gamma %g, %d hooks", arch, gamma, len(handles))
    return networks


@dataclass
class Share:
    """What one rank did, or all of them.

    Attributes:
        records: of each image, a dict: `image`; `label`; `target`, the class by which success is
            measured; `answer`, what the source answers where the attack starts, None in a resumed
            batch; `fooled`, what it answers to the adversarial pixels; `change`, the largest change
            of a pixel, in 1/255.
        skipped: names of unreadable images.
        first: path of the first image, and the width and height that all must have.
        crafted, seconds: how many images were attacked in this run, and in how long.
    """

    records: list[dict] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    first: tuple[Path, tuple[int, int]] | None = None
    crafted: int = 0
    seconds: float = 0

    def refuse_other_size(self, path: Path, size: tuple[int, int]) -> None:
        """Raise a ValueError if an image has not the width and height of the first one."""
        self.first = self.first or (path, size)
        if size != self.first[1]:
            raise ValueError(pictures.size_error((path, size), self.first))


def merged(shares: list[Share]) -> Share:
    """Return the shares of all ranks as one, which does not depend on how many there were."""
    whole = Share(crafted=sum(s.crafted for s in shares), seconds=max(s.seconds for s in shares))
    for share in shares:
        whole.records += share.records
        whole.skipped += share.skipped
        if share.first:
            whole.refuse_other_size(*share.first)
    whole.records.sort(key=lambda record: record["image"].path)
    whole.skipped.sort()
    return whole


class Crafter:
    """Attacks batches of images with the options of attack_iter.py, and saves what comes out.

    Attributes:
        networks: the sources.
        step_size: in 1/255.
        share: what was done so far.
    """

    def __init__(self, args, device: str):
        self.args = args
        self.device = device
        self.networks = load_sources(args, device)
        self.step_size = args.step_size if args.step_size >= 0 else args.epsilon / args.num_steps
        self.source = attacks.LogitEnsemble(self.networks).to(device)
        self.share = Share()
        self._parts = devices.Parts()
        self._diversity = attacks.InputDiversity(args.di_prob, args.di_resize)
        smoothing = attacks.TranslationInvariance(args.ti_kernel, args.ti_sigma)
        in_front = [smoothing] * (args.ti_kernel > 1) + [self._diversity] * (args.di_prob > 0)
        ensemble = self.source
        if args.ensemble == "gradients":
            ensemble = attacks.GradientEnsemble(self.networks)
        self._attack = attacks.make_attack(
            torch.nn.Sequential(*in_front, ensemble).to(device),
            args.epsilon,
            self.step_size,
            args.num_steps,
            args.momentum,
            args.targeted,
        )

    def find_batch_size(self) -> int:
        """Return a batch size that fits the device, for images as large as the first source's."""
        one_step = attacks.make_attack(self._attack.predict, 1, 1, 1)

        def attempt(part: slice) -> None:
            size = part.stop - part.start
            self._diversity.generators = attacks.image_generators(0, [""] * size)
            zeros = torch.zeros(size, *self.networks[0].input_size, device=self.device)
            attacks.perturb(one_step, zeros, torch.zeros(size, device=self.device).long(), 1)

        return devices.find_batch_size(self.device, self._parts, attempt)

    def craft(
        self, batch: list[images.LabelledImage], natural: Tensor, writer: pictures.Writer
    ) -> None:
        """Attack and save a batch of images, unless it is there; add its records to the share.

        Args:
            natural: pixels of the batch, uint8, N x 3 x H x W.
        """
        start = time.perf_counter()
        self.share.refuse_other_size(batch[0].path, (natural.shape[3], natural.shape[2]))
        on_device = natural.to(self.device)
        finished = runs.finished_batch(self.args.output_dir, batch, natural)

        def attacked(part: slice) -> dict:
            there = None if finished is None else finished[part]
            return self._attacked(batch[part], on_device[part], there)

        parts = self._parts(attacked, len(batch))
        labels, targets, answers, fooled = (
            [x for part in parts for x in part[key]]
            for key in ("labels", "targets", "answers", "fooled")
        )
        adversarial = torch.cat([part["adversarial"] for part in parts])
        if finished is None:
            for image, png in zip(batch, adversarial, strict=True):
                writer.write(png, self.args.output_dir / image.name)
            self.share.crafted += len(batch)
            self.share.seconds += time.perf_counter() - start
        changes = (adversarial.int() - natural.int()).abs().flatten(1).amax(1).tolist()
        keys = ("image", "label", "target", "answer", "fooled", "change")
        columns = (batch, labels, targets, answers, fooled, changes)
        self.share.records += [
            dict(zip(keys, values, strict=True)) for values in zip(*columns, strict=True)
        ]

    def _attacked(
        self, batch: list[images.LabelledImage], natural: Tensor, finished: Tensor | None
    ) -> dict:
        """Return labels, targets, answers, adversarial pixels on the CPU, and fooled answers."""
        args, floats = self.args, pictures.to_float(natural)
        generators = attacks.image_generators(args.seed, [image.name for image in batch])
        labels = [-1 if image.label is None else image.label for image in batch]
        classes = self.networks[0].classes
        if max(labels) >= classes:
            raise ValueError(f"label {max(labels)}: the source has {classes} classes only")
        answers = [None] * len(batch)
        # Elsewhere the attack's first step answers, without a pass of its own.
        moved = args.rand_init or args.di_prob > 0 or args.targeted
        if -1 in labels and (moved or finished is not None):
            answers = models.predict(self.source, floats).tolist()
            labels = _filled(labels, answers)
        targets = labels
        if args.targeted:
            draws = attacks.random_targets(labels, generators, classes)
            targets = [
                draw if image.target is None else image.target
                for image, draw in zip(batch, draws, strict=True)
            ]
        adversarial = finished
        if finished is None:
            aims = torch.tensor(targets, device=self.device)
            result, answers = self._perturbed(batch, floats, aims, generators)
            labels = _filled(labels, answers)
            adversarial = pictures.to_uint8(result, natural, args.epsilon)
        seen = pictures.to_float(adversarial.to(self.device))
        return {
            "labels": labels,
            "targets": targets if args.targeted else labels,
            "answers": answers,
            "adversarial": adversarial.cpu(),
            "fooled": models.predict(self.source, seen).tolist(),
        }

    def _perturbed(
        self, batch: list[images.LabelledImage], natural: Tensor, aims: Tensor, generators: list
    ) -> tuple[Tensor, list[int]]:
        """Return the adversarial pixels, and what the source answers where the attack starts."""
        self._diversity.generators = generators
        epsilon, start = self.args.epsilon, None
        if self.args.rand_init:
            start = attacks.random_start(natural, epsilon, generators)
        result = attacks.perturb(self._attack, natural, aims, epsilon, start)
        checks.refuse_not_finite(result, [image.name for image in batch])
        logits = self._attack.loss_fn.first
        if not self.share.crafted:
            checks.warn_of_probabilities(" + ".join(self.args.arch), logits)
        return result, logits.argmax(1).tolist()


def _filled(labels: list[int], answers: list[int]) -> list[int]:
    return [a if label < 0 else label for label, a in zip(labels, answers, strict=True)]


def label_row(args, record: dict) -> dict:
    """Return a row of labels.csv."""
    row = {"filename": record["image"].name, "label": record["label"]}
    return row | {"target": record["target"]} if args.targeted else row
