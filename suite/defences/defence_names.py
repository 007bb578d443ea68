"""Names of defended networks, as jpeg:75+bits:4+resnet50. Needs no torch."""

from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path

from suite.running.cli import UsageError, number_type, positive

_quality = number_type(int, "a whole number from 1 to 100", lambda n: 1 <= n <= 100)
_bits = number_type(int, "a whole number from 1 to 8", lambda n: 1 <= n <= 8)
# With 10 copies even a unanimous vote is not significant: 2 * 0.5 ** 10 > 0.001.
_copies = number_type(
    int, "a whole number of 11 or more (with fewer it always abstains)", lambda n: n >= 11
)
# Name, default and type of each parameter, in the order in which they are written.
DEFENCES: dict[str, list[tuple[str, float, Callable[[str], float]]]] = {
    "jpeg": [("quality", 75, _quality)],
    "bits": [("bits", 3, _bits)],
    "fd": [],
    "rp": [],
    "smooth": [("sigma", 0.25, positive), ("copies", 1000, _copies)],
    "nrp": [],
}
RANDOM = ("rp", "smooth")


def split_defences(name: str) -> tuple[list[tuple[str, tuple]], str]:
    """Return the defences in front of a network, in the order of the name, and its bare name.

    A defence is its kind and the values of its parameters, as ("jpeg", (75,)).

    Raises:
        UsageError: no defence has that name, a parameter is wrong, or no network is named.
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
        raise UsageError(f"{name} has no network behind its defence: write {example}, for example")
    return found, rest


def _defence(text: str, name: str) -> tuple[str, tuple]:
    """Return a defence from its part of a name, as jpeg:75."""
    kind, *given = text.split(":")
    if kind not in DEFENCES:
        raise UsageError(f"{name}: no defence is called {kind!r}; there are {', '.join(DEFENCES)}")
    parameters = DEFENCES[kind]
    if len(given) > len(parameters):
        takes = ":".join([kind, *(parameter.upper() for parameter, _, _ in parameters)])
        raise UsageError(f"{name}: {text} has too many parameters, write {takes}")
    values = []
    for parameter, default, parse in parameters:
        try:
            values.append(parse(given.pop(0)) if given else default)
        except ArgumentTypeError as error:
            raise UsageError(f"{name}: the {parameter} of {kind}: {error}") from error
    return kind, tuple(values)


def undefended_name(arch: str) -> str:
    """Return the name of a network without the defences in front of it."""
    return split_defences(arch)[1]


def defence_kinds(arch: str) -> list[str]:
    """Return the kinds of the defences in front of a network, as ["jpeg", "bits"]."""
    return [kind for kind, _ in split_defences(arch)[0]]


def refuse_unknown(archs: Sequence[str]) -> None:
    """Raise a UsageError if the defences in a name are wrong, see `split_defences`."""
    for arch in archs:
        split_defences(arch)


def checkpoints(archs: Sequence[str], given: Sequence[str] | None) -> dict[str, Path]:
    """Return the files of --checkpoint by networks' names without defences, nrp's as `nrp`.

    Raises:
        UsageError: a defence's name is wrong, nrp has no file, it is not clear which network a file
            belongs to, or a network has two files.
    """
    purified = [arch for arch in archs if "nrp" in defence_kinds(arch)]
    # A network has one file behind all its defences.
    names = [*dict.fromkeys(map(undefended_name, archs)), *["nrp"] * bool(purified)]
    repeated = {undefended_name(arch) for arch in archs if archs.count(arch) > 1}
    files = {}
    for text in given or []:
        # A path may contain an equals sign, too, so only networks' names are taken off.
        named = [name for name in names if text.startswith(f"{name}=")]
        if not named and len(names) > 1:
            raise UsageError(
                f"--checkpoint {text} does not begin with one of {', '.join(names)} and an equals "
                "sign: with several networks each file needs its network's name"
            )
        name = max(named, key=len, default=names[0])
        if name in files or name in repeated:
            raise UsageError(f"--checkpoint {text}: which {name}? A network has one file")
        files[name] = Path(text.removeprefix(f"{name}=")).expanduser()
    if purified and "nrp" not in files:
        raise UsageError(
            f"{purified[0]} needs the purifier's weights, which its authors publish as "
            "NRP_resG.pth: --checkpoint nrp=NRP_resG.pth"
        )
    return files


def refuse_as_sources(args) -> None:
    """Raise a UsageError if the sources, their defences, `checkpoints` and --eot don't fit."""
    checkpoints(args.arch, args.checkpoint)
    kinds = {kind for arch in args.arch for kind in defence_kinds(arch)}
    if "smooth" in kinds and len(args.arch) > 1:
        raise UsageError(
            "smooth answers with votes, which an ensemble can't average as logits: attack that "
            "network alone"
        )
    random = kinds & set(RANDOM) or args.di_prob or args.block_shuffle or args.admix
    if args.eot > 1 and not random:
        raise UsageError(
            f"--eot averages over random draws, and here is none: take {' or '.join(RANDOM)} in "
            "front of a network, or --di-prob"
        )
