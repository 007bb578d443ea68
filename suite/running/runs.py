"""The output folder of an attack: one run at a time, resumed where it stopped, never mixed.

`run.json` in it says with what it was made, and whether the run is "running" or "done". A resumed
run gives the bytes of an undisturbed one: on a CPU at an equal number of threads; on a GPU with
--precision fp32, on one model and one version of cuDNN, of which another is warned of. With tf32
and bf16 sums on a GPU have no fixed order.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from suite.images.labels import LABELS, LabelledImage, whole_file
from suite.running import ranks

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

logger = logging.getLogger(__name__)

FILE = "run.json"
VERSIONS = ("torch", "torchvision", "timm", "pretrainedmodels", "advertorch", "numpy", "Pillow")
# Of what is read again, which may come from elsewhere.
TYPES = {
    "status": str,
    "options": dict,
    "weights": dict,
    "device": str,
    "hardware": dict,
    "source": str,
    "attack": str,
    "gamma": int | float | list,
    "epsilon": int | float,
    "targeted": bool,
    "size": list,
    "batch_size": int,
    "pool": str,
}
# Options on which the images do not depend.
NEUTRAL = (
    "output_dir",
    "batch_size",
    "workers",
    "no_cuda",
    "print_freq",
    "json",
    "overwrite",
    "on_error",
    "list_branches",
)
# Options that run.json of earlier versions lacks, as what those versions did.
ADDED = {
    "attack": None,
    "loss": "cross-entropy",
    "nesterov": False,
    "scales": 1,
    "variance": 0,
    "variance_bound": 1.5,
    "admix": 0,
    "admix_ratio": 0.2,
    "block_shuffle": 0,
    "eot": 1,
    "through_defence": False,
}


def read_run(folder: Path) -> dict:
    """Return what run.json says; empty if there is none.

    Raises:
        ValueError: it is not a JSON object.
    """
    file = folder / FILE
    if not file.is_file():
        return {}
    try:
        run = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error})") from error
    if not isinstance(run, dict):
        raise ValueError(f"{file} is not a JSON object")
    for key in run.keys() & TYPES.keys():
        if not isinstance(run[key], TYPES[key]):
            raise ValueError(f"{file}: {key} can't be {run[key]!r}")
    return run


def sha256(file: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def listing_digest(listed: Iterable[LabelledImage]) -> str:
    """Return a digest of which images there are, of which classes: Admix draws from all."""
    lines = (f"{image.name} {image.label}\n" for image in listed)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def resumed_batch_size(folder: Path) -> int | None:
    """Return the batch size of the run that is to be resumed, on which rounding depends, if any."""
    return read_run(folder).get("batch_size")


def write_run(folder: Path, run: dict) -> None:
    """Write run.json."""
    with whole_file(folder / FILE) as part:
        part.write_text(json.dumps(run, indent=2) + "\n")


def run_settings(run: dict) -> dict:
    """Return on what the images of a run depend: options, device, digests of weights and pool."""
    options = ADDED | run.get("options", {})
    options = {key: v for key, v in options.items() if key not in NEUTRAL}
    if "gamma_from" in run:  # as if what auto stood for had been given
        gamma = run.get("gamma")
        options["gamma"] = gamma if isinstance(gamma, list) else [gamma]
    options |= {"device": run.get("device"), "pool": run.get("pool")}
    return options | {f"weights {file}": v for file, v in run.get("weights", {}).items()}


@contextlib.contextmanager
def output_folder(folder: Path, run: dict, overwrite: bool) -> Iterator[None]:
    """Make a folder ready for a run and keep other runs off it; rank 0 does, and others wait.

    What an interrupted run with the same settings left is kept, so that it can be resumed.

    Args:
        run: what is known of the run so far: its `options` and its `weights`.
        overwrite: delete the images that another run left; without a run.json nothing is deleted.

    Raises:
        ValueError: another run is writing there, or one with other settings has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if ranks.rank():
        ranks.gather(None)
        yield
        return
    with locked(folder):
        if overwrite and (folder / FILE).is_file():
            for file in [*folder.glob("*.png"), folder / LABELS, folder / FILE]:
                file.unlink(missing_ok=True)
        _refuse_other_settings(folder, run)
        for part in folder.glob(".*.part"):  # of a run that was killed
            part.unlink()
        try:
            write_run(folder, {"status": "running"} | run)
            ranks.gather(None)
            yield
        except BaseException:
            logger.warning("%s is unfinished: the same command does the rest", folder)
            raise


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends, also on network file systems.

    Raises:
        ValueError: another run holds it.
    """
    with (folder / ".lock").open("w") as file:
        try:
            if fcntl is None:
                raise OSError("no fcntl")
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(f"another run is writing to {folder}") from error
        except OSError:
            logger.warning("%s has no locks here: make sure that no other run writes there", folder)
        yield


def _refuse_other_settings(folder: Path, run: dict) -> None:
    hint = "take another folder, or --overwrite to start afresh"
    before = read_run(folder)
    if not before:
        if any(folder.glob("*.png")):
            raise ValueError(f"{folder} has images, but no {FILE}: take another folder")
        return
    there, here = run_settings(before), run_settings(run)
    differ = [
        f"{key} {there.get(key)!r} there and {here.get(key)!r} here"
        for key in sorted(there.keys() | here.keys())
        if there.get(key) != here.get(key)
    ]
    if differ:
        raise ValueError(f"{folder} was made with other settings ({'; '.join(differ)}): {hint}")
    for key, there in before.get("hardware", {}).items():
        here = run.get("hardware", {}).get(key)
        if here != there:
            logger.warning(
                "%s was begun with %s %s, and goes on with %s: it may round otherwise",
                folder,
                key,
                there,
                here,
            )


def machine(device: str) -> dict:
    """Return what rounding depends on: the kind of device, a GPU's model and version of cuDNN."""
    kind = device.partition(":")[0]
    if kind == "cpu":
        return {"device": kind}
    import torch

    there = {"gpu": torch.cuda.get_device_name(device), "cudnn": torch.backends.cudnn.version()}
    return {"device": kind, "hardware": there}


def versions() -> dict[str, str]:
    """Return the versions of what the images of a run depend on, as far as it is installed."""
    return {name: version(name) for name in VERSIONS if _installed(name)}


def _installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False
