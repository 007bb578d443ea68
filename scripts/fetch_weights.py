"""Download the weights of networks, or of a protocol's networks, before a run needs them.

    python scripts/fetch_weights.py transferattack
    python scripts/fetch_weights.py resnet152 timm/pit_b_224.in1k --dry-run

Prints for each network whether its weights are here or missing, their size, and where they are or
come from. The exit status is 1 if some can't be had; these are named at the end.
"""

import http.client
import sys
import urllib.request
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent.parent))

from suite.defences import defence_names
from suite.running import cli

TIMEOUT = 5  # seconds for a server to tell a file's size


def get_parser() -> cli.Parser:
    parser = cli.Parser(description=__doc__.partition("\n")[0])
    # fmt: off
    add = parser.add_argument
    add("names", nargs="+", metavar="NAME",
        help="networks; paper, transferattack, ta-bench and tpami stand for a protocol's sources "
        "and targets")
    add("--targets", action="store_true", help="of a protocol its targets only")
    add("--dry-run", action="store_true", help="list them, and download nothing")
    add("--list", type=Path, metavar="FILE",
        help="file to write: a line for each name, `there NAME` or `lacking NAME`")
    # fmt: on
    return parser


def main(args) -> None:
    defence_names.refuse_unknown(args.names)

    from suite.networks.catalogue import find_network
    from suite.networks.fetching import obtain
    from suite.networks.protocols import PROTOCOLS, TARGETS, expand_protocols
    from suite.networks.weights import weights_folder

    lists = TARGETS if args.targets else PROTOCOLS
    given = expand_protocols(args.names, lists)
    names = dict.fromkeys(map(defence_names.undefended_name, given))
    missing, lacking, silent = {}, {}, set()
    for name in names:
        spec = find_network(name)
        here = [way.file for way in spec.ways if way.file and way.file.is_file()]
        state, size, place = "missing", None, "-"
        if spec.code:
            state, place = "here", spec.code[0]
        elif spec.file is None:
            state = "none"
            lacking[name] = "it has no weights for ImageNet-1k's 1000 classes"
        elif here:
            state, size, place = "here", here[0].stat().st_size, here[0]
        else:
            try:
                size, place = offer(spec, silent)
                missing[name] = spec
            except OSError as error:
                place = " or ".join(way.url for way in spec.ways)
                lacking[name] = str(error)
        print(f"{name:<51} {state:<8} {in_words(size):>8}  {place}", flush=True)
    for name, spec in missing.items() if not args.dry_run else ():
        try:
            obtain(name, spec)
        except OSError as error:
            lacking[name] = str(error)
    if args.list:
        bare = {name: defence_names.undefended_name(name) for name in given}
        states = [f"{'lacking' if bare[name] in lacking else 'there'} {name}\n" for name in given]
        args.list.parent.mkdir(parents=True, exist_ok=True)
        args.list.write_text("".join(states))
    if lacking:
        raise OSError(
            f"the weights of {len(lacking)} networks can't be had. What is put into "
            f"{weights_folder()} is found there:"
            + "".join(f"\n{name}: {how}" for name, how in lacking.items())
        )


def offer(spec, silent: set[str]) -> tuple[int | None, str]:
    """Return the size of a network's weights and the URL of the first server that has them.

    Args:
        silent: servers that did not answer, which are not asked again; new ones are added.

    Raises:
        OSError: no server has them; the message lists the files to get by hand.
    """
    ways = []
    for each in spec.ways:
        try:
            return remote_size(each.url, silent), each.url
        except OSError:
            ways.append(f"{each.url} as {each.file.name}")
    raise OSError(" or ".join(ways))


def remote_size(url: str, silent: set[str]) -> int | None:
    """Return how many bytes a file on a server has; None if the server does not say."""
    server = urlsplit(url).netloc
    if server in silent:
        raise OSError(f"{server} does not answer")
    request = urllib.request.Request(url, headers={"User-Agent": "torch.hub"}, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return int(answer.headers.get("Content-Length") or 0) or None
    except HTTPError as error:
        if error.code in (405, 501):  # it does not answer HEAD
            return None
        raise
    except (OSError, http.client.HTTPException) as error:
        silent.add(server)
        raise OSError(str(error)) from error


def in_words(size: int | None) -> str:
    """Return a size in bytes as people write it."""
    if size is None:
        return "unknown"
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"


if __name__ == "__main__":
    cli.run(main, get_parser())
