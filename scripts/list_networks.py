"""Print the names of networks, with what is known about them.

    python scripts/list_networks.py '*senet*'

Each line has a name, the input size, whether the weights are on this machine, and where they come
from.
"""

import fnmatch
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from suite.running import cli


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        help="a part of the names, or a shell pattern for whole names",
    )
    return parser


def main(args) -> None:
    from suite.networks.catalogue import find_network

    whole = any(character in args.pattern for character in "*?[")
    names = fnmatch.filter(network_names(), args.pattern if whole else f"*{args.pattern}*")
    for name in names:
        spec = find_network(name)
        size = "x".join(map(str, spec.input_size[1:]))
        here = "here" if any(way.file and way.file.is_file() for way in spec.ways) else "-"
        places = dict.fromkeys(way.url or "with its package" for way in spec.ways)
        print(f"{name:<44} {size:>9}  {here:<4}  {' or '.join(places)}")
    if not names:
        raise ValueError(f"no network's name matches {args.pattern}")


def network_names() -> Iterator[str]:
    """Yield each name of a network with weights, for ImageNet's 1000 classes or CIFAR-10's ten."""
    import timm
    from torchvision import models as torchvision

    from suite.networks.catalogue import SUITE_NAMES, import_pretrainedmodels

    yield from (*SUITE_NAMES, *sorted(import_pretrainedmodels().model_names))
    for arch in torchvision.list_models(module=torchvision):
        yield f"torchvision/{arch}"
        for version in torchvision.get_model_weights(arch).__members__:
            yield f"torchvision/{arch}@{version}"
    for arch in timm.list_pretrained():
        if timm.get_pretrained_cfg(arch).num_classes == 1000:
            yield f"timm/{arch}"


if __name__ == "__main__":
    cli.run(main, get_parser())
