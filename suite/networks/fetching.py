"""Weights before they are needed: which are on this machine, how large they are, getting them."""

import logging
from dataclasses import dataclass
from urllib.error import HTTPError
from urllib.parse import urlsplit

from suite.networks import catalogue, weights
from suite.networks.libraries import NetworkSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Supply:
    """What is known of a network's weights.

    Attributes:
        state: "here", "missing", or "none" where the name stands for no weights.
        size: of the file in bytes; None if no server says.
        place: where the file is or comes from.
        lacking: what to do where they are neither here nor on a server that answers; else empty.
    """

    state: str
    size: int | None
    place: str
    lacking: str = ""


def weights_supply(name: str, silent: set[str]) -> Supply:
    """Return what is known of a network's weights; servers are asked, nothing is downloaded.

    Args:
        silent: servers that did not answer, which are not asked again; new ones are added.

    Raises:
        ValueError: no network has that name.
    """
    origin = catalogue.find_network(name)
    if origin.code:
        return Supply("here", None, str(origin.code[0]))
    if origin.file is None:
        return Supply("none", None, "-", "it has no weights for ImageNet-1k's 1000 classes")
    if origin.here:
        return Supply("here", origin.here.stat().st_size, str(origin.here))
    ways = []
    for each in filter(None, (origin, origin.alternative)):
        try:
            return Supply("missing", _ask(each.url, silent), each.url)
        except OSError:
            ways.append(f"{each.url} as {each.file.name}")
    return Supply("missing", None, origin.place, " or ".join(ways))


def _ask(url: str, silent: set[str]) -> int | None:
    server = urlsplit(url).netloc
    if server in silent:
        raise OSError(f"{server} does not answer")
    try:
        return weights.remote_size(url)
    except HTTPError as error:
        if error.code in (405, 501):  # it does not tell headers alone
            return None
        raise
    except OSError:
        silent.add(server)
        raise


def obtain(name: str, origin: NetworkSpec) -> NetworkSpec:
    """Return where a network's weights come from, or their alternative: the file is here then.

    Raises:
        ValueError: the name stands for no weights.
        OSError: they are not on this machine and can't be downloaded.
    """
    if origin.file is None:
        raise ValueError(f"{name} has no weights for ImageNet-1k's 1000 classes")
    if origin.file.is_file():
        return origin
    other = origin.alternative
    if other is None or not other.file.is_file():
        try:
            weights.download(name, origin.url, origin.file)
            return origin
        except OSError as error:
            if other is None:
                raise
            try:
                weights.download(name, other.url, other.file)
            except OSError as second:
                raise OSError(f"{error}\nOtherwise: {second}") from second
            logger.warning("%s", error)
    logger.warning("%s", other.note)
    return other


def fetch_weights(name: str) -> None:
    """Download a network's weights if they are not on this machine; raises as `obtain` does."""
    origin = catalogue.find_network(name)
    if not origin.code:
        obtain(name, origin)
