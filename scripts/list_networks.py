"""Print the names of the networks, with what is known of them.

    python scripts/list_networks.py '*senet*'

Of each: its input size, whether its weights are on this machine, and where they come from.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from suite.running import cli


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        help="of the names: a part of them, or a shell pattern of the whole",
    )
    return parser


def main(args) -> None:
    from suite.networks.catalogue import list_networks

    found = False
    for name, size, place, here in list_networks(args.pattern):
        found = True
        print(f"{name:<44} {size:>9}  {here:<4}  {place}")
    if not found:
        raise ValueError(f"no network's name matches {args.pattern}")


if __name__ == "__main__":
    cli.run(main, get_parser())
