"""Files of weights: where they are kept, how they are downloaded and checked."""

import contextlib
import http.client
import logging
import os
import pickle
import re
import struct
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError
from tqdm import tqdm

from suite.running.runs import sha256
from suite.user_code.user_file import message_line

logger = logging.getLogger(__name__)

TIMEOUT = 30  # seconds without an answer
ASKING = 5  # the same where only the header is wanted, of many files
UNUSABLE = (
    RuntimeError,
    ValueError,
    LookupError,
    EOFError,
    AssertionError,
    AttributeError,
    TypeError,
    struct.error,
    pickle.UnpicklingError,
    SafetensorError,
)
SELF_EXPLAINING = (RuntimeError, ValueError, pickle.UnpicklingError, SafetensorError)


def weights_folder() -> Path:
    """Return the folder where torch keeps weights; TORCH_HOME moves it."""
    return Path(torch.hub.get_dir(), "checkpoints")


def digest_in_name(file: Path) -> str | None:
    """Return the first digits of the SHA-256 that stand in a file's name, if they do."""
    match = re.search(r"-([0-9a-f]{8,})\.", file.name)
    return match and match[1]


def download(name: str, url: str, file: Path) -> None:
    """Download a network's weights; the file appears when it is whole and its digest is right.

    Raises:
        OSError: the server does not answer, breaks off, or sends something else.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    logger.info("downloading the weights of %s from %s", name, url)
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        _fetch(url, part)
        wanted, found = digest_in_name(file), sha256(part)
        if wanted and not found.startswith(wanted):
            raise OSError(f"what came has the SHA-256 {found}, which does not begin with {wanted}")
        part.replace(file)
    except (OSError, http.client.HTTPException) as error:
        raise OSError(
            f"can't download the weights of {name} from {url} ({error}). Put that file into "
            f"{file.parent} as {file.name} and run this again."
        ) from error
    finally:
        part.unlink(missing_ok=True)


def remote_size(url: str) -> int | None:
    """Return how many bytes a server says that a file has; None if it does not say.

    Raises:
        OSError: the server does not answer, or has no such file.
    """
    try:
        with urllib.request.urlopen(_request(url, "HEAD"), timeout=ASKING) as answer:
            length = answer.headers.get("Content-Length")
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    return int(length) if length else None


def _request(url: str, method: str = "GET") -> urllib.request.Request:
    return urllib.request.Request(url, headers={"User-Agent": "torch.hub"}, method=method)


def _fetch(url: str, part: Path) -> None:
    with urllib.request.urlopen(_request(url), timeout=TIMEOUT) as answer, part.open("wb") as file:
        length = answer.headers.get("Content-Length")
        length = int(length) if length else None
        with tqdm(total=length, unit="B", unit_scale=True, disable=None) as bar:
            while block := answer.read(1 << 16):
                file.write(block)
                bar.update(len(block))
        # A connection that breaks off looks like the end of the file.
        if length is not None and file.tell() != length:
            raise OSError(f"{file.tell()} of {length} bytes came")


@contextlib.contextmanager
def usable_file(file: Path | None, advice: str = "") -> Iterator[None]:
    """While a library loads a file: no code from it runs, and what goes wrong names the file.

    Args:
        file: None if weights are random; errors are then left alone.
        advice: what the user can do about an unusable file.
    """
    # pretrainedmodels calls torchvision in a deprecated way
    with warnings.catch_warnings(), _weights_only():
        warnings.simplefilter("ignore")
        try:
            yield
        except UNUSABLE as error:
            if file is None:
                raise
            message = f"{file}: not usable as weights of this network ({_reason(error)}). {advice}"
            raise ValueError(message.strip()) from error


def _reason(error: Exception) -> str:
    text = message_line(error)
    if "TorchScript archives" in text:
        return (
            "saved by torch.jit: a function of your own can load and return it, --arch FILE.py:NAME"
        )
    if not isinstance(error, pickle.UnpicklingError):
        return text if isinstance(error, SELF_EXPLAINING) else f"{type(error).__name__}: {text}"
    refused = re.search(r"GLOBAL (\S+) (was not an allowed|whose module)", text)
    if refused:
        return (
            f"a pickle that would run code: it needs {refused[1]}. Save the weights alone, as "
            "docs/networks.md says"
        )
    # Around it stand torch's advice to switch the check off, and a link.
    said = re.search(r"WeightsUnpickler error: (.*?)(?: Check the documentation|$)", text)
    text = said[1] if said else text
    if re.fullmatch(r"Unsupported operand 1(4\d|5[01])", text):
        text = "its pickle protocol is above 2, that of torch.save"
    return f"damaged, or a pickle that would run code: {text}"


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """Make torch refuse checkpoints that would run code; the libraries' loaders don't ask it to."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
