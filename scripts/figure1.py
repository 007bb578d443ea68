"""The SGM paper's first figure: the gradient goes one way only at the last three junctions.

    python scripts/figure1.py --input-dir nat_images --plot figure1.png

A junction is a residual addition whose skip connection has no parameters. At each of the last three
the gradient goes on through the skip connection or the residual module alone: eight attacks, and
the plain one, with which they are compared. In the table they stand in the place of folders. Only
images that all networks classify correctly are attacked.
"""

import functools
import itertools
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from suite.attack import settings
from suite.defences import defence_names
from suite.running import cli

logger = logging.getLogger("figure1")

PLAIN = ("both", "both", "both")


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    # fmt: off
    add = parser.add_argument
    add("--input-dir", type=Path,
        help="folder of natural images; if absent the embedded ones, resized as a whole")
    add("--arch", default="efficientnet_lite0",
        help="source network; it has three residual additions with an identity skip, or more")
    add("--targets", nargs="+", default=["efficientnet_lite1", "efficientnet_lite2"],
        help="target networks")
    add("--epsilon", type=cli.not_negative, default=16.0, help="largest perturbation, in 1/255")
    add("--num-steps", type=cli.positive_int, default=10, help="of the attack")
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

    from suite.SCRIPT import OneWay

    from suite.attack.attacker import Attacker
    from suite.attack.settings import Attack
    from suite.attack.sources import Source
    from suite.images.embedded import embedded_images
    from suite.images.folders import in_batches, list_images
    from suite.images.image_checks import refuse_unlabelled
    from suite.images.pictures import read_batches
    from suite.images.selection import square
    from suite.networks.answer_checks import refuse_other_classes
    from suite.networks.classifier import load_model
    from suite.results.paired import compare_with_baselines
    from suite.results.plots import write_plot
    from suite.results.rates import merge_repeats
    from suite.results.report import table_text, write_table
    from suite.results.targets import Targets
    from suite.results.transfer import successes
    from suite.running import devices

    device = devices.choose_device(args.no_cuda, args.precision)
    workers, size = devices.decoders(args.workers), devices.batch_size(device, args.batch_size)
    source = load_model(args.arch).accelerate(args.precision).to(device)
    places = OneWay(source, PLAIN).places
    logger.info("%s: the last junctions are in %s", args.arch, ", ".join(places))
    archs = list(dict.fromkeys([args.arch, *args.targets]))
    committee = Targets(archs, {}, device, args.precision)

    candidates = list_images(args.input_dir) if args.input_dir else embedded_images()
    refuse_unlabelled(args.input_dir, candidates, targeted=False)
    for arch, network in committee.networks.items():
        refuse_other_classes(arch, network.classes, candidates)
    side = min(224, max(source.input_size[1:]))
    square = functools.partial(square, size=side, whole=True)
    read = functools.partial(
        read_batches, workers=workers, prepare=None if args.input_dir else square
    )
    shown = cli.progress(read(in_batches(candidates, size)), len(candidates))
    correct = [
        image
        for batch, _, said in committee.answers(shown)
        for image, *answers in zip(batch, *said.values(), strict=True)
        if all(answer.index == image.label for answer in answers)
    ]
    logger.info("%d of %d images are classified correctly", len(correct), len(candidates))
    if not correct:
        raise ValueError("no image that all of the networks classify correctly")

    step_size = args.step_size if args.step_size >= 0 else args.epsilon / args.num_steps
    settings = Attack(args.epsilon, step_size, args.num_steps, args.momentum)
    counted, fooled = [], {}
    for ways in [PLAIN, *itertools.product(("skip", "residual"), repeat=3)]:
        name = " ".join(ways) if ways != PLAIN else "plain"
        logger.info("%s", name)
        one_way = Source(OneWay(source, ways), name=args.arch)
        attacker = Attacker(settings, [one_way])
        batches = read(in_batches(correct, size))
        attacked = perturbed(attacker, cli.progress(batches, len(correct)), device)
        answers = {arch: {} for arch in archs}
        for batch, _, said in committee.answers(attacked):
            for arch, own in said.items():
                answers[arch] |= zip((image.name for image in batch), own, strict=True)
        fooled[Path(name)] = {arch: successes(correct, own, False) for arch, own in answers.items()}
        counted.append(
            {"folder": name, "repeat": name, "source": args.arch, "attack": settings.name}
            | {"gamma": None, "epsilon": args.epsilon, "num_steps": args.num_steps}
            | {"images": len(correct)}
            | {
                "targets": {
                    a: {"succeeded": sum(f.values())} for a, f in fooled[Path(name)].items()
                }
            }
        )
    rows = merge_repeats(counted)
    compare_with_baselines(
        rows, fooled, {name: Path("plain") for name in fooled if name != Path("plain")}
    )
    if args.output:
        write_table(rows, args.output)
    print(table_text(rows), flush=True)
    if args.plot:
        write_plot(rows, args.plot)


def check(args) -> None:
    """Refuse networks and attacks that can't be, and files that could not be written at the end."""
    defence_names.refuse_unknown([args.arch, *args.targets])
    if defence_names.defence_kinds(args.arch):
        raise cli.UsageError(
            f"{args.arch} has a defence, which only --targets may have: --arch "
            f"{defence_names.undefended_name(args.arch)}"
        )
    path = None if args.step_size < 0 else args.step_size * args.num_steps
    settings.refuse_no_levels(args.epsilon, path)
    cli.refuse_unwritable(args.output, ".txt", ".csv", ".md", ".json")
    cli.refuse_unwritable(args.plot, ".png", ".pdf")


def perturbed(attacker, batches, device: str):
    """Yield batches with their adversarial pixels, uint8 on the CPU."""
    import torch

    from suite.images.pictures import to_float, to_uint8
    from suite.running import devices

    parts = devices.Parts()
    for batch, natural in batches:
        labels = torch.tensor([image.label for image in batch], device=device)
        natural = natural.to(device)

        def attacked(part: slice, natural=natural, labels=labels) -> torch.Tensor:
            result = attacker(to_float(natural[part]), labels[part])
            return to_uint8(result, natural[part], attacker.attack.epsilon)

        yield batch, torch.cat(parts(attacked, len(batch))).cpu()


if __name__ == "__main__":
    cli.run(main, get_parser())
