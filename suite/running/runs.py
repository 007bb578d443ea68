"""The output folder of an attack: one run at a time, resumed where it stopped, never mixed.

Its `run.json` says with what the images were made, and whether the run is "running" or "done". A
resumed run gives the bytes of an undisturbed one: on a CPU at an equal number of threads; on a GPU
with --precision fp32, on one model and one version of cuDNN (others are warned of). With tf32 and
bf16, sums on a GPU have no fixed order.
"""

import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from suite.images.labels import LABELS, RUN, LabelledImage, whole_file
from suite.running import ranks

logger = logging.getLogger(__name__)

VERSIONS = ("torch", "torchvision", "timm", "pretrainedmodels", "advertorch", "numpy", "Pillow")
# The types of the values that are read again, since the file may have been edited.
READ_AGAIN = {
    str: ("status", "device", "source", "attack", "pool"),
    dict: ("options", "weights", "hardware"),
    list: ("size",),
    bool: ("targeted",),
    int: ("batch_size",),
    int | float: ("epsilon",),
    int | float | list: ("gamma",),
}
# Options on which the images do not depend.
NEUTRAL = ("output_dir", "batch_size", "workers", "no_cuda", "print_freq", "json", "overwrite")
RETIRED = ("on_error", "list_branches", "through_defence")  # only earlier versions had them


def read_run(folder: Path, defaults: Mapping[str, object] | None = None) -> dict:
    """Return the content of run.json; empty if there is none.

    Args:
        defaults: what the options meant that an earlier version did not have.

    Raises:
        ValueError: it is not a JSON object, or a value has the wrong type.
    """
    file = folder / RUN
    if not file.is_file():
        return {}
    try:
        run = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error})") from error
    if not isinstance(run, dict):
        raise ValueError(f"{file} is not a JSON object")
    for kind, keys in READ_AGAIN.items():
        for key in run.keys() & keys:
            if not isinstance(run[key], kind):
                raise ValueError(f"{file}: {key} can't be {run[key]!r}")
    return run | {"options": dict(defaults or {}) | run.get("options", {})}


def write_run(folder: Path, run: dict) -> None:
    """Write run.json."""
    with whole_file(folder / RUN) as part:
        part.write_text(json.dumps(run, indent=2) + "\n")


def run_settings(run: dict) -> dict:
    """Return what the images of a run depend on: options, device, digests of weights and pool."""
    options = {key: v for key, v in run.get("options", {}).items() if key not in NEUTRAL + RETIRED}
    if "gamma_from" in run:  # as if the gammas that "auto" stood for had been given
        gamma = run.get("gamma")
        options["gamma"] = gamma if isinstance(gamma, list) else [gamma]
    options |= {"device": run.get("device"), "pool": run.get("pool")}
    return options | {f"weights {file}": v for file, v in run.get("weights", {}).items()}


@contextlib.contextmanager
def output_folder(
    folder: Path, run: dict, overwrite: bool, defaults: Mapping[str, object] | None = None
) -> Iterator[None]:
    """Prepare a folder for a run and keep other runs off it; rank 0 does so while others wait.

    What an interrupted run with the same settings left is kept, so that it can be resumed.

    Args:
        run: what is known of the run so far: its `options` and its `weights`.
        overwrite: delete the images that another run left; without a run.json nothing is deleted.
        defaults: see `read_run`.

    Raises:
        ValueError: another run is writing there, or one with other settings has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if ranks.rank():
        ranks.gather(None)
        yield
        return
    with locked(folder):
        if overwrite and (folder / RUN).is_file():
            for file in [*folder.glob("*.png"), folder / LABELS, folder / RUN]:
                file.unlink(missing_ok=True)
        _refuse_other_settings(folder, read_run(folder, defaults), run)
        for part in folder.glob(".*.part"):  # left by a run that was killed
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
    """Hold a folder's lock, which ends with the process; a ValueError if another run holds it."""
    with (folder / ".lock").open("w") as file:
        try:
            import fcntl  # which only POSIX systems have

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # also on network file systems
        except (BlockingIOError, PermissionError) as error:
            raise ValueError(f"another run is writing to {folder}") from error
        except (ImportError, OSError):
            logger.warning("%s has no locks here: make sure that no other run writes there", folder)
        yield


def _refuse_other_settings(folder: Path, before: dict, run: dict) -> None:
    if not before:
        if any(folder.glob("*.png")):
            raise ValueError(f"{folder} has images, but no {RUN}: take another folder")
        return
    there, here = run_settings(before), run_settings(run)
    pairs = {key: (there.get(key), here.get(key)) for key in sorted(there.keys() | here.keys())}
    differ = [f"{key} {a!r} there and {b!r} here" for key, (a, b) in pairs.items() if a != b]
    if differ:
        raise ValueError(
            f"{folder} was made with other settings ({'; '.join(differ)}): take another folder, or "
            "--overwrite to start afresh"
        )
    for key, value in before.get("hardware", {}).items():
        now = run.get("hardware", {}).get(key)
        if now != value:
            change = f"was begun with {key} {value}, and goes on with {now}"
            logger.warning("%s %s: it may round differently", folder, change)


def sha256(file: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def listing_digest(listed: Iterable[LabelledImage]) -> str:
    """Return a digest of the names and labels of all images, from which Admix draws."""
    lines = (f"{image.name} {image.label}\n" for image in listed)
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def machine(device: str) -> dict:
    """Return what rounding depends on: the kind of device, a GPU's model and version of cuDNN."""
    if device == "cpu":
        return {"device": device}
    hardware = {"gpu": torch.cuda.get_device_name(device), "cudnn": torch.backends.cudnn.version()}
    return {"device": "cuda", "hardware": hardware}


def versions() -> dict[str, str]:
    """Return the versions of the installed packages on which the images of a run depend."""
    installed = {}
    for name in VERSIONS:
        with contextlib.suppress(PackageNotFoundError):
            installed[name] = version(name)
    return installed
