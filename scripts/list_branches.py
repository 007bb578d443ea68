"""Print where the residual branches of networks are; needs neither images nor weights.

    python scripts/list_branches.py resnet50 timm/vit_base_patch16_224

Lists the additions and concatenations of a forward pass: branch hooks go to those with a residual
branch, and the others are left alone. The exit status is 1 if a network has no residual branch.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from suite.defences import defence_names
from suite.running import cli


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("arch", nargs="+", metavar="ARCH", help="networks; a defence in front of one is left away")
    add("--json", action="store_true", help="print a line of JSON for each network")
    return parser


def main(args) -> None:
    defence_names.refuse_unknown(args.arch)

    from branches import trace_connections
    from suite.networks.classifier import load_model

    for arch in args.arch:
        model = load_model(defence_names.undefended_name(arch), pretrained=False)
        found = trace_connections(model.network, model.input_size)
        if args.json:
            keys = ("kind", "place", "module", "residual", "in_part")
            listed = [{key: getattr(connection, key) for key in keys} for connection in found]
            print(json.dumps({"arch": arch, "connections": listed}))
        else:
            print(f"{arch}:")
            for connection in found:
                print(f"{connection.kind:<14} {in_words(connection)}")
            print(f"{sum(bool(connection.module) for connection in found)} residual branches")
        if not any(connection.module for connection in found):
            raise ValueError(f"no residual branch in {arch}: gamma would do nothing")


def in_words(connection) -> str:
    """Return what becomes of a connection of `branches.trace_connections`."""
    place = connection.place or "the network itself"
    if connection.module:
        return f"branch {connection.module}"
    left = "left out" if connection.residual else "left alone"
    return f"{left}: {connection.reason}, in {place}"


if __name__ == "__main__":
    cli.run(main, get_parser())
