"""The settings of an attack, and the command line that is made from them. No torch."""

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, field, fields

from suite.running import cli

LOSSES = ("cross-entropy", "logit", "margin")
PASSES = "attack, with more passes a step"  # the second group of options


def _option(default: object, help: str, group: str = "attack", **argument: object):
    """Return a field of `Attack`, with what `add_argument` takes for the option of its name."""
    return field(default=default, metadata={"group": group, "help": help} | argument)


@dataclass(frozen=True)
class Attack:
    """The settings of an L-infinity attack; by default PGD as in the SGM paper.

    Each field is an option of attack_iter.py, which has its type, its default and its help text.
    An option that the run.json of an earlier version lacks meant its default.

    Attributes:
        user: a `UserAttack`, which is run instead and gets the settings that it asks for.

    Raises:
        ValueError: settings that do not go together.
    """

    epsilon: float = _option(16.0, "largest perturbation, in 1/255", type=cli.not_negative)
    step_size: float = _option(2.0, "in 1/255; negative: epsilon / num-steps", type=cli.finite)
    num_steps: int = _option(10, "1 step of size epsilon is FGSM", type=cli.positive_int)
    momentum: float = _option(0.0, "0: PGD; above 0: MI-FGSM's decay factor", type=cli.not_negative)
    di_prob: float = _option(
        0.0, "DI: probability of its resizing and padding (0.5 in its paper)", type=cli.probability
    )
    di_resize: float = _option(
        1.1, "DI: largest size, relative to the image's", type=cli.at_least_1
    )
    ti_kernel: int = _option(1, "TI: kernel size in pixels (15 in its paper)", type=cli.odd)
    ti_sigma: float = _option(
        3.0, "TI: standard deviations from the kernel's middle to its edge", type=cli.positive
    )
    rand_init: bool = _option(False, "start at a random point of the epsilon ball")
    targeted: bool = _option(
        False, "aim at the label file's target classes, or at random ones where it has none"
    )
    loss: str = _option(
        "cross-entropy",
        "logit: the label's logit alone; margin: the largest other logit less the label's",
        choices=LOSSES,
    )
    ensemble: str = _option(
        "logits",
        "several sources: average their logits, or normalise each source's gradient and add",
        choices=("logits", "gradients"),
    )
    seed: int = _option(0, "random seed, also of random target classes", type=int)
    nesterov: bool = _option(False, "NI: take the gradient where the momentum leads", PASSES)
    scales: int = _option(
        1,
        "SI: number of copies, each half as bright as the one before (5 in its paper)",
        PASSES,
        type=cli.positive_int,
    )
    variance: int = _option(
        0,
        "VMI, or VNI with --nesterov: number of neighbours that tune it (20 in its paper)",
        PASSES,
        type=cli.whole,
    )
    variance_bound: float = _option(
        1.5, "VMI: distance of the neighbours, relative to epsilon", PASSES, type=cli.positive
    )
    admix: int = _option(
        0,
        "Admix: number of images of other classes, out of --input-dir, to mix in (3 in its paper)",
        PASSES,
        type=cli.whole,
    )
    admix_ratio: float = _option(0.2, "Admix: weight of those images", PASSES, type=cli.fraction)
    block_shuffle: int = _option(
        0,
        "BSR: number of copies with shuffled and rotated blocks (20 in its paper)",
        PASSES,
        type=cli.whole,
    )
    eot: int = _option(
        1,
        "EOT: number of random draws, of defences and DI, over which each gradient is averaged",
        PASSES,
        type=cli.positive_int,
    )
    user: object = None

    def __post_init__(self):
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not {self.loss!r}")
        if self.nesterov and not self.momentum:
            raise ValueError(
                "--nesterov looks where the momentum leads to: it needs a --momentum above 0"
            )
        for option in ("nesterov", "variance"):
            if getattr(self, option) and self.num_steps == 1:
                raise ValueError(
                    f"--{option} takes something from the step before: --num-steps 1 has none"
                )
        if self.user:
            self._refuse_ignored()

    @property
    def evaluations(self) -> int:
        """Number of gradient evaluations a step; PGD makes one."""
        return self.copies * (1 + self.variance)

    @property
    def copies(self) -> int:
        """Number of gradients that are averaged at one point, of copies and random draws."""
        return self.scales * max(1, self.admix) * max(1, self.block_shuffle) * self.eot

    @property
    def name(self) -> str:
        """The field's name of the attack: PGD, MI-FGSM+DI, FGSM, VNI-FGSM+SI+DI, ..."""
        if self.user:
            return "targeted " * self.targeted + self.user.name
        if self.num_steps == 1 and self.step_size == self.epsilon:
            name = "FGSM"
        elif self.momentum:
            name = "V" * (self.variance > 0) + ("NI-FGSM" if self.nesterov else "MI-FGSM")
        else:
            name = "PGD" + "+VT" * (self.variance > 0)
        on_top = {
            "SI": self.scales > 1,
            "Admix": self.admix > 0,
            "BSR": self.block_shuffle > 0,
            "DI": self.di_prob > 0,
            "TI": self.ti_kernel > 1,
            "EOT": self.eot > 1,
            self.loss: self.loss != "cross-entropy",
        }
        return "targeted " * self.targeted + "+".join([name, *(x for x in on_top if on_top[x])])

    def _refuse_ignored(self) -> None:
        taken = {"epsilon", "seed", "user", *self.user.asks}
        ignored = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        ignored = [f"--{name.replace('_', '-')}" for name in ignored if name not in taken]
        if ignored:
            raise ValueError(
                f"{self.user.name} does not ask for {', '.join(ignored)}: leave it out, or give "
                "the function a parameter of that name"
            )


OPTIONS = [f for f in fields(Attack) if f.metadata]
# What the run.json of an earlier version meant by options that it lacks.
DEFAULTS = {"attack": None} | {f.name: f.default for f in OPTIONS}
# What an attack of the user's can ask for by name, beside the generators.
USER_SETTINGS = [f.name for f in OPTIONS if f.name not in ("epsilon", "ensemble")]


def add_options(parser: ArgumentParser) -> None:
    """Add an option for each setting of an attack."""
    groups = {}
    for option in OPTIONS:
        argument = dict(option.metadata)
        title = argument.pop("group")
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        if option.default is False:
            argument["action"] = "store_true"
        flag = f"--{option.name.replace('_', '-')}"
        groups[title].add_argument(flag, default=option.default, **argument)


def gamma(text: str) -> float | str:
    """Return a gamma of the command line: a number from 0 to 1, or "auto"."""
    return text if text == "auto" else cli.probability(text)


def attack_of(args: Namespace) -> Attack:
    """Return the attack of the command line, which no attack of the user's has replaced yet.

    Raises:
        UsageError: options do not go with each other, with the sources, or with SGM.
    """
    named = {option.name: getattr(args, option.name) for option in OPTIONS}
    if args.step_size < 0:
        named["step_size"] = args.epsilon / args.num_steps
    try:
        attack = Attack(**named)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error
    if len(args.gamma) not in (1, len(args.arch)):
        raise cli.UsageError(f"{len(args.gamma)} gammas do not go with {len(args.arch)} networks")
    if 0 in args.gamma and not args.branches:
        raise cli.UsageError(
            "--gamma 0 cuts off what it scales: it needs --branches, which name a part of the "
            "residual branches; for all of them take a gamma above 0"
        )
    anywhere = attack.rand_init or args.attack
    refuse_no_levels(attack.epsilon, None if anywhere else attack.step_size * attack.num_steps)
    return attack


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
