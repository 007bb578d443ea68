"""Downloading weights, from their own server or another one that has a copy."""

import http.client
import logging
import os
import shutil
import urllib.request
from pathlib import Path

from tqdm import tqdm

from suite.networks.libraries import NetworkSpec
from suite.networks.weights import digest_in_name
from suite.running.runs import sha256

logger = logging.getLogger(__name__)

TIMEOUT = 30  # seconds without an answer


def obtain(name: str, spec: NetworkSpec) -> NetworkSpec:
    """Return a network whose file of weights is on this machine: this one, or its alternative.

    Raises:
        ValueError: the name stands for no weights.
        OSError: they are not on this machine and can't be downloaded.
    """
    if spec.file is None:
        raise ValueError(f"{name} has no weights for ImageNet-1k's 1000 classes")
    failures = []
    for way in sorted(spec.ways, key=lambda way: not way.file.is_file()):  # files here come first
        try:
            if not way.file.is_file():
                download(name, way.url, way.file)
        except OSError as error:
            failures.append(str(error))
            continue
        if way is not spec:
            for message in (*failures, way.note):
                logger.warning("%s", message)
        return way
    raise OSError("\nOtherwise: ".join(failures))


def download(name: str, url: str, file: Path) -> None:
    """Download a network's weights; the file appears when it is whole and its digest is right.

    Raises:
        OSError: the server does not answer, breaks off, or sends another file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    logger.info("downloading the weights of %s from %s", name, url)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        _fetch(url, part)
        wanted, found = digest_in_name(file), sha256(part)
        if not found.startswith(wanted):
            raise OSError(f"what came has the SHA-256 {found}, which does not begin with {wanted}")
        part.replace(file)
    except (OSError, http.client.HTTPException) as error:
        raise OSError(
            f"can't download the weights of {name} from {url} ({error}). Put that file into "
            f"{file.parent} as {file.name} and run this again."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _fetch(url: str, part: Path) -> None:
    """Download as torch.hub does, which takes a connection that breaks off for the file's end."""
    request = urllib.request.Request(url, headers={"User-Agent": "torch.hub"})
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer, part.open("wb") as file:
        length = int(answer.headers.get("Content-Length") or 0)  # 0 where the server does not say
        with tqdm.wrapattr(answer, "read", total=length or None, disable=None) as reader:
            shutil.copyfileobj(reader, file)
        if length and file.tell() != length:
            raise OSError(f"{file.tell()} of {length} bytes came")
