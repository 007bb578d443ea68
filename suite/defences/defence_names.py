"""Names of defended networks, as jpeg:75+bits:4+resnet50. Needs no torch."""

from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path

from suite.running import cli

# With 10 copies even a unanimous vote is not significant: 2 * 0.5 ** 10 > 0.001.
FEWEST_COPIES = 11

_quality = cli.number_type(int, "a whole number from 1 to 100", lambda n: 1 <= n <= 100)
_bits = cli.number_type(int, "a whole number from 1 to 8", lambda n: 1 <= n <= 8)
_copies = cli.number_type(
    int,
    f"a whole number of {FEWEST_COPIES} or more (with fewer it always abstains)",
    lambda n: n >= FEWEST_COPIES,
)
# Name, default and type of each parameter, in the order in which they are written.
DEFENCES: dict[str, list[tuple[str, float, Callable[[str], float]]]] = {
    "jpeg": [("quality", 75, _quality)],
    "bits": [("bits", 3, _bits)],
    "fd": [],
    "rp": [],
    "smooth": [("sigma", 0.25, cli.positive), ("copies", 1000, _copies)],
    "nrp": [],
}
RANDOM = ("rp", "smooth")


def split_defences(name: str) -> tuple[list[tuple[str, tuple]], str]:
    """Return the defences in front of a network, in the order of the name, and its bare name.

    A defence is its kind and the values of its parameters, as ("jpeg", (75,)).

    Raises:
        ValueError: no defence has that name, a parameter is wrong, or no network is named.
    """
    found, rest = [], name
    while "+" in rest:
        first, _, behind = rest.partition("+")
        # The user's path/to/file.py:function may have a plus sign, too.
        if first.partition(":")[0] not in DEFENCES and (
            "/" in first or Path(rest.rpartition(":")[0]).is_file()
        ):
            break
        found.append(_defence(first, name))
        rest = behind
    if not rest or rest.partition(":")[0] in DEFENCES:
        example = "+".join([name.removesuffix("+"), "resnet50"])
        raise ValueError(f"{name} has no network behind its defence: write {example}, for example")
    return found, rest


def _defence(text: str, name: str) -> tuple[str, tuple]:
    """Return a defence from its part of a name, as jpeg:75."""
    kind, *given = text.split(":")
    if kind not in DEFENCES:
        raise ValueError(f"{name}: no defence is called {kind!r}; there are {', '.join(DEFENCES)}")
    parameters = DEFENCES[kind]
    if len(given) > len(parameters):
        takes = ":".join([kind, *(parameter.upper() for parameter, _, _ in parameters)])
        raise ValueError(f"{name}: {text} has too many parameters, write {takes}")
    values = [default for _, default, _ in parameters]
    for n, number in enumerate(given):
        parameter, _, parse = parameters[n]
        try:
            values[n] = parse(number)
        except ArgumentTypeError as error:
            raise ValueError(f"{name}: the {parameter} of {kind}: {error}") from error
    return kind, tuple(values)


def undefended_name(arch: str) -> str:
    """Return the name of a network without the defences in front of it."""
    return split_defences(arch)[1]


def defence_kinds(arch: str) -> list[str]:
    """Return the kinds of the defences in front of a network, as ["jpeg", "bits"]."""
    return [kind for kind, _ in split_defences(arch)[0]]


def refuse_unknown(archs: Sequence[str]) -> None:
    """Raise a UsageError if the defences in a name are wrong, see `split_defences`."""
    try:
        for arch in archs:
            split_defences(arch)
    except ValueError as error:
        raise cli.UsageError(str(error)) from error


def checkpoints(archs: Sequence[str], given: Sequence[str] | None) -> dict[str, Path]:
    """Return the files of --checkpoint by networks' names without defences, nrp's as `nrp`.

    Raises:
        UsageError: a defence's name is wrong, nrp has no file, or see `cli.named_files`.
    """
    refuse_unknown(archs)
    # A network has one file behind all its defences, but none where a whole name is repeated.
    names = list(dict.fromkeys(map(undefended_name, archs)))
    names += [undefended_name(arch) for n, arch in enumerate(archs) if arch in archs[:n]]
    purified = [arch for arch in archs if "nrp" in defence_kinds(arch)]
    files = cli.named_files(names + ["nrp"] * bool(purified), given)
    if purified and "nrp" not in files:
        raise cli.UsageError(
            f"{purified[0]} needs the purifier's weights, which its authors publish as "
            "NRP_resG.pth: --checkpoint nrp=NRP_resG.pth"
        )
    return files


def refuse_as_sources(args) -> None:
    """Raise a UsageError if sources can't be attacked through the defences in front of them.

    Or if their checkpoints are wrong, see `checkpoints`.
    """
    checkpoints(args.arch, args.checkpoint)
    kinds = {kind for arch in args.arch for kind in defence_kinds(arch)}
    if "smooth" in kinds and len(args.arch) > 1:
        raise cli.UsageError(
            "smooth answers with votes, which an ensemble can't average as logits: attack that "
            "network alone"
        )
    random = kinds & set(RANDOM) or args.di_prob or args.block_shuffle or args.admix
    if args.eot > 1 and not random:
        raise cli.UsageError(
            f"--eot averages over random draws, and here is none: take {' or '.join(RANDOM)} in "
            "front of a network, or --di-prob"
        )
