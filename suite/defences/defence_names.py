"""Defences in front of a network's name: jpeg:75+bits:4+resnet50; no torch, for the command line.

What they do is in `suite/defences`.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from suite.running import cli

# With fewer copies even one class for all of them is not significant: 2 * 0.5 ** 10 > 0.001.
FEWEST_COPIES = 11


class Parameter(NamedTuple):
    """What may stand after a colon.

    Attributes:
        name: as messages have it.
        kind: of number.
        default: where it is left out.
        range: in words.
        accepted: whether a number is in it.
    """

    name: str
    kind: type
    default: float
    range: str
    accepted: Callable[[float], bool]


# The defences, and their parameters in order.
DEFENCES: dict[str, tuple[Parameter, ...]] = {
    "jpeg": (
        Parameter("quality", int, 75, "a whole number from 1 to 100", lambda n: 0 < n <= 100),
    ),
    "bits": (Parameter("bits", int, 3, "a whole number from 1 to 8", lambda n: 0 < n <= 8),),
    "fd": (),
    "rp": (),
    "smooth": (
        Parameter("sigma", float, 0.25, "a number above 0", lambda n: 0 < n < math.inf),
        Parameter(
            "number of copies",
            int,
            1000,
            f"a whole number of {FEWEST_COPIES} or more (with fewer it always abstains)",
            lambda n: n >= FEWEST_COPIES,
        ),
    ),
    "nrp": (),
}
RANDOM = ("rp", "smooth")


class Defence(NamedTuple):
    """A defence and the values of its parameters."""

    kind: str
    values: tuple[float, ...]


def split_defences(name: str) -> tuple[list[Defence], str]:
    """Return the defences in front of a network's name, the first one first, and the bare name.

    Raises:
        ValueError: no defence has that name, a parameter is wrong, or no network stands behind.
    """
    found, rest = [], name
    while "+" in rest:
        first, _, behind = rest.partition("+")
        if first.partition(":")[0] not in DEFENCES and _is_path(first, rest):
            break
        found.append(_defence(first, name))
        rest = behind
    if not rest or rest.partition(":")[0] in DEFENCES:
        example = "+".join([name.removesuffix("+"), "resnet50"])
        raise ValueError(f"{name} has no network behind its defence: write {example}, for example")
    return found, rest


def _is_path(first: str, rest: str) -> bool:
    """Return whether a plus sign is one of the user's path/to/file.py:function."""
    return "/" in first or Path(rest.rpartition(":")[0]).is_file()


def _defence(text: str, name: str) -> Defence:
    kind, *given = text.split(":")
    if kind not in DEFENCES:
        raise ValueError(f"{name}: no defence is called {kind!r}; there are {', '.join(DEFENCES)}")
    parameters = DEFENCES[kind]
    if len(given) > len(parameters):
        takes = ":".join([kind, *(p.name.upper() for p in parameters)])
        raise ValueError(f"{name}: {text} has too many parameters, write {takes}")
    values = [_parameter_value(*pair, kind, name) for pair in zip(given, parameters, strict=False)]
    return Defence(kind, (*values, *(p.default for p in parameters[len(given) :])))


def _parameter_value(text: str, parameter: Parameter, kind: str, name: str) -> float:
    try:
        number = parameter.kind(text)
    except ValueError:
        number = math.nan
    if not parameter.accepted(number):
        raise ValueError(f"{name}: the {parameter.name} of {kind} is {parameter.range}, not {text}")
    return number


def undefended_name(name: str) -> str:
    """Return a network's name without the defences in front of it."""
    return split_defences(name)[1]


def refuse_unknown(archs: Sequence[str]) -> None:
    """Raise a UsageError if the defences in front of a name are not right."""
    try:
        for arch in archs:
            split_defences(arch)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error


def checkpoints(archs: Sequence[str], given: Sequence[str] | None) -> dict[str, Path]:
    """Return the files of --checkpoint by the bare names of networks; nrp's purifier is `nrp`.

    Raises:
        UsageError: see `cli.checkpoints`; or nrp has no file.
    """
    refuse_unknown(archs)
    bares = [undefended_name(arch) for arch in archs]
    # A network behind several defences has one file, but one that is given twice has none.
    names = [
        own
        for n, (arch, own) in enumerate(zip(archs, bares, strict=True))
        if own not in bares[:n] or arch in archs[:n]
    ]
    purified = [arch for arch in archs if "nrp" in defence_kinds(arch)]
    files = cli.named_files(names + ["nrp"] * bool(purified), given)
    if purified and "nrp" not in files:
        raise cli.UsageError(
            f"{purified[0]} needs the purifier's weights, which its authors publish as "
            "NRP_resG.pth: --checkpoint nrp=NRP_resG.pth"
        )
    return files


def defence_kinds(arch: str) -> list[str]:
    """Return which defences stand in front of a network's name."""
    return [defence.kind for defence in split_defences(arch)[0]]


def refuse_as_sources(args) -> None:
    """Raise a UsageError if the options of an attack do not go with its sources' defences.

    Or with their --checkpoint, see `checkpoints`.
    """
    checkpoints(args.arch, args.checkpoint)
    with_defence = [arch for arch in args.arch if defence_kinds(arch)]
    if with_defence and not args.through_defence:
        own = undefended_name(with_defence[0])
        raise cli.UsageError(
            f"{with_defence[0]} has a defence: --through-defence attacks the network through it, "
            f"and --arch {own} the network alone"
        )
    if args.through_defence and not with_defence:
        raise cli.UsageError(
            f"--through-defence needs one in front of a network, as in --arch bits:3+{args.arch[0]}"
        )
    there = {kind for arch in args.arch for kind in defence_kinds(arch)}
    if "smooth" in there and len(args.arch) > 1:
        raise cli.UsageError(
            "smooth lets copies vote, and votes are no logits that an ensemble could average: "
            "attack that network alone"
        )
    anew = there & set(RANDOM) or args.di_prob or args.block_shuffle or args.admix
    if args.eot > 1 and not anew:
        raise cli.UsageError(
            f"--eot averages over random draws, and here is none: take {' or '.join(RANDOM)} in "
            "front of a network, or --di-prob"
        )
