"""The options of an attack, and which do not go together; no torch, for the command line asks."""

import argparse

from suite.running import cli


def add_attack(parser: argparse.ArgumentParser) -> None:
    """Add the settings of `suite.attack.Attack`, under its names and with its defaults."""
    # fmt: off
    add = parser.add_argument_group("attack").add_argument
    add("--attack", metavar="FILE.py:FUNCTION",
        help="an attack of your own, function(model, images, labels, epsilon), which gets the "
        "other options here that it has parameters for")
    add("--epsilon", type=cli.not_negative, default=16.0, help="largest perturbation, in 1/255")
    add("--num-steps", type=cli.positive_int, default=10, help="1 step of size epsilon is FGSM")
    add("--step-size", type=cli.finite, default=2.0, help="in 1/255; negative: epsilon / num-steps")
    add("--momentum", type=cli.not_negative, default=0.0,
        help="0: PGD; above 0: MI-FGSM's decay factor")
    add("--di-prob", type=cli.probability, default=0.0, help="DI's probability (0.5 in its paper)")
    add("--di-resize", type=cli.at_least_1, default=1.1,
        help="DI's largest size, relative to the image's")
    add("--ti-kernel", type=cli.odd, default=1, help="TI's kernel size in pixels (15 in its paper)")
    add("--ti-sigma", type=cli.positive, default=3.0,
        help="standard deviations from its middle to its edge")
    add("--rand-init", action="store_true", help="start at a random place in the ball")
    add("--targeted", action="store_true",
        help="aim at the label file's target classes, or at random ones if it has none")
    add("--loss", choices=("cross-entropy", "logit", "margin"), default="cross-entropy",
        help="logit: the label's logit alone; margin: the largest other logit less the label's")
    add("--seed", type=int, default=0, help="of all random numbers and random target classes")
    add("--through-defence", action="store_true",
        help="attack through the defences in front of --arch (adaptive), as in bits:3+resnet50")

    add = parser.add_argument_group("attack, with more passes a step").add_argument
    add("--nesterov", action="store_true", help="NI: the gradient where the momentum leads to")
    add("--scales", type=cli.positive_int, default=1,
        help="SI: copies of the pixels, each half as bright as the one before (5 in its paper)")
    add("--variance", type=cli.whole, default=0,
        help="VMI, and VNI with --nesterov: neighbours whose gradients tune it (20 in its paper)")
    add("--variance-bound", type=cli.positive, default=1.5,
        help="how far the neighbours are away, relative to epsilon")
    add("--admix", type=cli.whole, default=0,
        help="Admix: images of other classes to mix in, of --input-dir (3 in its paper)")
    add("--admix-ratio", type=cli.share, default=0.2, help="how much of them")
    add("--block-shuffle", type=cli.whole, default=0,
        help="BSR: copies with shuffled and rotated blocks (20 in its paper)")
    add("--eot", type=cli.positive_int, default=1,
        help="EOT: random draws, of defences and DI, over which each gradient is averaged")
    # fmt: on


def gamma(text: str) -> float | str:
    """Return a gamma of the command line: a number from 0 to 1, or "auto"."""
    return text if text == "auto" else cli.probability(text)


def refuse_wrong(args: argparse.Namespace) -> None:
    """Raise a UsageError if an attack's options do not go with each other, or with SGM's."""
    wrong = contradiction(args)
    if wrong:
        raise cli.UsageError(wrong)
    several = len(args.arch) > 1 or evaluations(args) > 1
    if several and args.ensemble == "logits" and args.hooks == "relu":
        raise cli.UsageError(
            "relu hooks rescale each gradient by itself, so that averaged networks or passes would "
            "not count equally: take --hooks branch, or --ensemble gradients"
        )
    if len(args.gamma) not in (1, len(args.arch)):
        raise cli.UsageError(f"{len(args.gamma)} gammas do not go with {len(args.arch)} networks")
    if 0 in args.gamma and not args.branches:
        raise cli.UsageError(
            "--gamma 0 cuts off what it scales: it needs --branches, which name a part of the "
            "residual branches; for all of them take a gamma above 0"
        )


def refuse_no_levels(epsilon: float, path: float | None) -> None:
    """Raise a UsageError if no saved pixel can change.

    Args:
        epsilon: largest perturbation, in 1/255.
        path: how far all steps together reach, in 1/255; None if that is no bound.
    """
    if 0 < epsilon < 1:
        raise cli.UsageError(
            f"--epsilon {epsilon:g} is in 1/255, and rounds to nothing: saved pixels have whole "
            "levels (16/255 is --epsilon 16)"
        )
    if path is not None and path < min(epsilon, 0.5):
        raise cli.UsageError(
            f"all steps together reach {path:g}/255, which rounds to nothing: --step-size is in "
            "1/255 (2/255 is --step-size 2)"
        )


def evaluations(attack) -> int:
    """Return how many gradients of the network make one step, of which PGD takes one.

    Args:
        attack: a `suite.attack.Attack`, or the options of the command line.
    """
    copies = attack.scales * max(1, attack.admix) * max(1, attack.block_shuffle) * attack.eot
    return copies * (1 + attack.variance)


def contradiction(attack) -> str | None:
    """Say which settings of an attack do not go together; None if all of them do.

    Args:
        attack: as of `evaluations`.
    """
    if attack.nesterov and not attack.momentum:
        return "--nesterov looks where the momentum leads to: it needs a --momentum above 0"
    for option in ("nesterov", "variance"):
        if getattr(attack, option) and attack.num_steps == 1:
            return f"--{option} takes something from the step before: --num-steps 1 has none"
    return None
