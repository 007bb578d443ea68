"""The SGM paper's first figure: the gradient takes only one way at the last three junctions.

    python scripts/figure1.py --input-dir nat_images --plot figure1.png

A junction is a residual addition whose skip connection has no parameters. At each of the last three
junctions the gradient goes through the skip connection alone or through the residual branch alone,
which makes eight attacks; they are compared with the plain attack. The table names an attack where
that of evaluate.py names a folder. Only images that all networks classify correctly are attacked.
"""

import functools
import itertools
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

sys.path.insert(0, str(Path(__file__).parent.parent))

from suite.attack.loop import GradientAttack
from suite.attack.settings import Attack, refuse_no_levels
from suite.defences import defence_names
from suite.images.folders import EMBEDDED, in_batches, list_images
from suite.images.image_checks import refuse_unlabelled
from suite.images.labels import LabelledImage
from suite.images.pictures import read_batches, to_float, to_uint8
from suite.images.selection import square
from suite.networks.answer_checks import refuse_other_classes
from suite.networks.classifier import load_model
from suite.results.paired import compare_with_baselines
from suite.results.plots import write_plot
from suite.results.rates import merge_repeats
from suite.results.report import table_text, write_table
from suite.results.targets import Targets
from suite.running import cli, devices
from suite.user_code.input_sizes import input_size
from watching import ADDITIONS, Watch

logger = logging.getLogger("figure1")

PLAIN = ("both", "both", "both")


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    # fmt: off
    add = parser.add_argument
    add("--input-dir", type=Path,
        help="folder of natural images; if absent the embedded ones, resized as a whole")
    add("--arch", default="efficientnet_lite0",
        help="source network; it needs at least three residual additions with an identity skip")
    add("--targets", nargs="+", default=["efficientnet_lite1", "efficientnet_lite2"],
        help="target networks")
    add("--epsilon", type=cli.not_negative, default=16.0, help="largest perturbation, in 1/255")
    add("--num-steps", type=cli.positive_int, default=10, help="number of steps of the attack")
    add("--step-size", type=cli.finite, default=2.0, help="in 1/255; negative: epsilon / num-steps")
    add("--momentum", type=cli.not_negative, default=0.0,
        help="0: PGD; above 0: MI-FGSM's decay factor")
    add("--output", type=Path, help="file to write the table to: .csv, .md, .json or .txt")
    add("--plot", type=Path, help="PNG or PDF to draw")
    cli.add_running(add)
    # fmt: on
    return parser


def main(args) -> None:
    check(args)
    device = devices.choose_device(args.no_cuda, args.precision)
    workers, size = devices.decoders(args.workers), devices.batch_size(device, args.batch_size)

    source = load_model(args.arch).accelerate(args.precision).to(device)
    places = OneWay(source, PLAIN).places
    logger.info("%s: the last junctions are in %s", args.arch, ", ".join(places))
    archs = list(dict.fromkeys([args.arch, *args.targets]))
    targets = Targets(archs, {}, device, args.precision)

    candidates = list_images(args.input_dir or EMBEDDED)
    refuse_unlabelled(args.input_dir, candidates, targeted=False)
    for arch, network in targets.networks.items():
        refuse_other_classes(arch, network.classes, candidates)
    side = min(224, max(source.input_size[1:]))
    prepare = None if args.input_dir else functools.partial(square, size=side, whole=True)

    def read(images: list[LabelledImage]) -> Iterator[tuple[list[LabelledImage], Tensor]]:
        batches = read_batches(in_batches(images, size), workers, prepare)
        return cli.progress(batches, len(images))

    wrong = fooled(targets, read(candidates))
    correct = [image for image in candidates if not any(own[image.name] for own in wrong.values())]
    logger.info("%d of %d images are classified correctly", len(correct), len(candidates))
    if not correct:
        raise ValueError("no image that all of the networks classify correctly")

    step_size = args.step_size if args.step_size >= 0 else args.epsilon / args.num_steps
    attack = Attack(args.epsilon, step_size, args.num_steps, args.momentum)
    results, successes = [], {}
    for ways in [PLAIN, *itertools.product(("skip", "residual"), repeat=3)]:
        name = "plain" if ways == PLAIN else " ".join(ways)
        logger.info("%s", name)
        loop = GradientAttack(attack, [OneWay(source, ways)])
        successes[Path(name)] = fooled(targets, perturbed(loop, read(correct), device))
        counts = {a: {"succeeded": sum(own.values())} for a, own in successes[Path(name)].items()}
        results.append(
            {
                "folder": name,
                "repeat": name,
                "source": args.arch,
                "attack": attack.name,
                "gamma": None,
                "epsilon": args.epsilon,
                "num_steps": args.num_steps,
                "images": len(correct),
                "targets": counts,
            }
        )
    rows = merge_repeats(results)
    plain, *others = successes
    compare_with_baselines(rows, successes, dict.fromkeys(others, plain))
    if args.output:
        write_table(rows, args.output)
    print(table_text(rows), flush=True)
    if args.plot:
        write_plot(rows, args.plot)


def check(args) -> None:
    """Refuse wrong networks and settings, and files that could not be written at the end."""
    defence_names.refuse_unknown([args.arch, *args.targets])
    if defence_names.defence_kinds(args.arch):
        raise cli.UsageError(
            f"{args.arch} has a defence, which only --targets may have: --arch "
            f"{defence_names.undefended_name(args.arch)}"
        )
    refuse_no_levels(args.epsilon, None if args.step_size < 0 else args.step_size * args.num_steps)
    cli.refuse_unwritable(args.output, ".txt", ".csv", ".md", ".json")
    cli.refuse_unwritable(args.plot, ".png", ".pdf")


def fooled(
    targets: Targets, batches: Iterable[tuple[list[LabelledImage], Tensor]]
) -> dict[str, dict[str, bool]]:
    """Return by target and image name whether the target's answer is wrong."""
    found = {arch: {} for arch in targets.networks}
    for batch, _, said in targets.answers(batches):
        for arch, answers in said.items():
            pairs = zip(batch, answers, strict=True)
            found[arch] |= {image.name: answer.index != image.label for image, answer in pairs}
    return found


def perturbed(
    loop: GradientAttack, batches: Iterable[tuple[list[LabelledImage], Tensor]], device: str
) -> Iterator[tuple[list[LabelledImage], Tensor]]:
    """Yield batches with their adversarial pixels, uint8 N x 3 x H x W on the CPU."""
    parts = devices.Parts()
    for batch, natural in batches:
        natural = natural.to(device)
        labels = torch.tensor([image.label for image in batch], device=device)

        def attacked(part: slice, natural=natural, labels=labels) -> Tensor:
            adversarial = loop.perturb(to_float(natural[part]), labels[part])
            return to_uint8(adversarial, natural[part], loop.attack.epsilon)

        yield batch, torch.cat(parts(attacked, len(batch))).cpu()


class OneWay(nn.Module):
    """A network whose gradient takes one way at its last junctions; its logits are unchanged.

    A junction is a residual addition z + f(z) whose skip connection has no parameters. "skip" makes
    the gradient that of z + f(z).detach(), "residual" that of z.detach() + f(z).

    Args:
        network: from pixels in [0, 1], N x 3 x H x W, to logits; frozen, in evaluation mode.
        ways: one for each of the last junctions, in the order of a forward pass: "skip", "residual"
            or "both".

    Attributes:
        places: the modules in whose forward these junctions are.

    Raises:
        ValueError: the network has fewer junctions. Dense connections are not counted, because they
            concatenate.
    """

    def __init__(self, network: nn.Module, ways: Sequence[str]):
        super().__init__()
        self.network = network
        self.training = network.training
        additions = Watch(network, input_size(network)).additions
        junctions = [number for number, (_, branch) in enumerate(additions) if branch is not None]
        if len(junctions) < len(ways):
            raise ValueError(
                f"the network has {len(junctions)} residual additions with an identity skip, and "
                f"{len(ways)} are needed (dense connections do not count: they concatenate)"
            )
        last = junctions[len(junctions) - len(ways) :]
        self.places = [additions[number][0] for number in last]
        self._additions = len(additions)
        self._detached = {}
        for number, way in zip(last, ways, strict=True):
            branch = additions[number][1]
            if way != "both":
                self._detached[number] = branch if way == "skip" else 1 - branch

    def forward(self, pixels: Tensor) -> Tensor:
        with _Detaching(self._detached) as additions:
            logits = self.network(pixels)
        if logits.requires_grad and additions.count != self._additions:
            raise ValueError(
                f"the network makes {additions.count} additions in one pass and {self._additions} "
                "in another, so that its last ones can't be identified"
            )
        return logits


class _Detaching(TorchFunctionMode):
    """Detaches an operand of some additions, which are counted as `Watch` does.

    Args:
        detached: the operand, 0 or 1, by the number of its addition.
    """

    def __init__(self, detached: dict[int, int]):
        super().__init__()
        self.count = 0
        self._detached = detached

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.__name__ in ADDITIONS:
            given = [*args, *kwargs.values()]
            operands = [x for x in given if isinstance(x, Tensor) and x.requires_grad]
            if len(operands) == 2 and operands[0] is not operands[1]:
                if self.count in self._detached:
                    loose = operands[self._detached[self.count]]
                    in_place = function.__name__ in ("add_", "__iadd__") and loose is args[0]
                    cut = _without_gradient(loose, in_place)
                    args = [cut if x is loose else x for x in args]
                    kwargs = {key: cut if x is loose else x for key, x in kwargs.items()}
                self.count += 1
        return function(*args, **kwargs)


def _without_gradient(tensor: Tensor, in_place: bool) -> Tensor:
    """Return a tensor without its gradient; itself if the addition changes it in place."""
    if in_place and not tensor._is_view():  # a view can't be detached in place
        return tensor.detach_()
    return tensor.detach()


if __name__ == "__main__":
    cli.run(main, get_parser())
