"""Download the weights of networks, or of a protocol's networks, before a run needs them.

    python scripts/fetch_weights.py transferattack
    python scripts/fetch_weights.py resnet152 timm/pit_b_224.in1k --dry-run

Prints of each whether it is here or missing, its size, and where it is or comes from. The exit
status is 1 if some can't be had, which are named at the end.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from suite.defences import defence_names
from suite.running import cli


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    # fmt: off
    add = parser.add_argument
    add("names", nargs="+", metavar="NAME",
        help="networks; paper, transferattack, ta-bench and tpami stand for a protocol's sources "
        "and targets")
    add("--targets", action="store_true", help="of a protocol its targets only")
    add("--dry-run", action="store_true", help="list them, and download nothing")
    # fmt: on
    return parser


def main(args) -> None:
    defence_names.refuse_unknown(args.names)

    from suite.networks.fetching import fetch_weights, weights_supply
    from suite.networks.protocols import PROTOCOLS, TARGETS, expand_protocols
    from suite.networks.weights import weights_folder

    lists = TARGETS if args.targets else PROTOCOLS
    missing, lacking, silent = [], {}, set()
    for name in expand_protocols(map(defence_names.undefended_name, args.names), lists):
        found = weights_supply(name, silent)
        print(f"{name:<51} {found.state:<8} {in_words(found.size):>8}  {found.place}", flush=True)
        if found.lacking:
            lacking[name] = found.lacking
        elif found.state == "missing":
            missing.append(name)
    for name in [] if args.dry_run else missing:
        try:
            fetch_weights(name)
        except OSError as error:
            lacking[name] = str(error)
    if lacking:
        raise OSError(
            f"the weights of {len(lacking)} networks can't be had. What is put into "
            f"{weights_folder()} is found there:"
            + "".join(f"\n{name}: {how}" for name, how in lacking.items())
        )


def in_words(size: int | None) -> str:
    """Return a size in bytes as people write it."""
    if size is None:
        return "unknown"
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"


if __name__ == "__main__":
    cli.run(main, get_parser())
