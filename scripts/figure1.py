"""The SGM paper's first figure: the gradient takes only one way at the last three junctions.

    python scripts/figure1.py --input-dir nat_images --plot figure1.png

A junction is a residual addition whose skip connection carries every value. At each of the last
three junctions the gradient goes through the skip connection alone or through the residual branch
alone, which makes eight attacks; they are compared with the plain attack. The table names an attack
where that of evaluate.py names a folder. Only images that all networks classify correctly are
attacked.
"""

import itertools
import logging
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from suite.attack.settings import Attack, refuse_no_levels
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

    from one_way import OneWay

    from suite.attack.loop import GradientAttack
    from suite.images.folders import EMBEDDED, in_batches, list_images
    from suite.images.image_checks import refuse_unlabelled
    from suite.images.pictures import read_batches
    from suite.images.selection import square
    from suite.networks.answer_checks import by_class_names, refuse_other_classes
    from suite.networks.classifier import load_model
    from suite.results.paired import compare_with_baselines
    from suite.results.plots import write_plot
    from suite.results.rates import merge_repeats
    from suite.results.report import publish, table_text, write_table
    from suite.results.targets import Targets
    from suite.running import devices

    device = devices.choose_device(args.no_cuda, args.precision)
    workers, size = devices.decoders(args.workers), devices.batch_size(device, args.batch_size)

    source = load_model(args.arch).accelerate(args.precision).to(device)
    places = OneWay(source, PLAIN).places
    logger.info("%s: the last junctions are in %s", args.arch, ", ".join(places))
    archs = list(dict.fromkeys([args.arch, *args.targets]))
    targets = Targets(archs, {}, device, args.precision)

    candidates = list_images(args.input_dir or EMBEDDED)
    refuse_unlabelled(args.input_dir, candidates, targeted=False)
    candidates = by_class_names(targets.networks, candidates)
    for arch, network in targets.networks.items():
        refuse_other_classes(arch, network.classes, candidates, network.others)
    side = min(224, max(source.input_size[1:]))

    def whole(picture, name: str):
        return picture if args.input_dir else square(picture, side, whole=True)

    def read(images):
        batches = read_batches(in_batches(images, size), workers, whole)
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
    writers = [(args.output, partial(write_table, rows)), (args.plot, partial(write_plot, rows))]
    publish(table_text(rows), writers)


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
    cli.refuse_overwriting([args.output, args.plot], [args.input_dir], [])


def fooled(targets, batches) -> dict[str, dict[str, bool]]:
    """Return by target and image name whether the target's answer is wrong."""
    found = {arch: {} for arch in targets.networks}
    for batch, _, said in targets.answers(batches):
        for arch, answers in said.items():
            pairs = zip(batch, answers, strict=True)
            found[arch] |= {image.name: answer.index != image.label for image, answer in pairs}
    return found


def perturbed(loop, batches, device: str):
    """Yield batches with their adversarial pixels, uint8 N x 3 x H x W on the CPU."""
    import torch

    from suite.attack.crafting import refuse_not_finite
    from suite.images.pictures import to_float, to_uint8
    from suite.running import devices

    parts = devices.Parts()
    for batch, natural in batches:
        natural = devices.to_device(natural, device)
        labels = devices.to_device(torch.tensor([image.label for image in batch]), device)

        def attacked(part: slice, batch=batch, natural=natural, labels=labels):
            adversarial = loop.perturb(to_float(natural[part]), labels[part])
            broken = (~adversarial.isfinite()).flatten(1).any(1).tolist()
            refuse_not_finite(broken, [image.name for image in batch[part]])
            return to_uint8(adversarial, natural[part], loop.attack.epsilon)

        yield batch, torch.cat(parts(attacked, len(batch))).cpu()


if __name__ == "__main__":
    cli.run(main, get_parser())
