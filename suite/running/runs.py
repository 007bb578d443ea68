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
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from suite.images.labels import LABELS, RUN, LabelledImage, printable, whole_file
from suite.images.pictures import read_content
from suite.running import ranks

logger = logging.getLogger(__name__)

VERSIONS = ("torch", "torchvision", "timm", "pretrainedmodels", "advertorch", "numpy", "Pillow")
# Options with which a run may be resumed though they have changed. Rounding depends on the batch
# size: without the option, a resumed run keeps the one that run.json has.
NEUTRAL = ("output_dir", "batch_size", "workers", "no_cuda", "print_freq", "json", "overwrite")

RETIRED = ("on_error", "list_branches", "through_defence")  # only earlier versions had them


def _is_number(value: object) -> bool:
    """Return whether a value is a finite number: no comparison would notice NaN."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_plain(value: object) -> bool:
    """Return whether a value is null, a boolean, a text, a finite number, or a list of these."""
    values = value if isinstance(value, list) else [value]
    return all(v is None or isinstance(v, str | bool) or _is_number(v) for v in values)


# What the values that are read again have to be, since the file may have been edited.
READ_AGAIN = {
    ("status", "device", "source", "attack", "pool"): lambda v: isinstance(v, str),
    ("options", "hardware"): lambda v: isinstance(v, dict) and all(map(_is_plain, v.values())),
    ("weights", "inputs"): lambda v: (
        isinstance(v, dict) and all(isinstance(text, str) for text in v.values())
    ),
    ("size", "hooks"): lambda v: isinstance(v, list) and _is_plain(v),
    ("targeted",): lambda v: isinstance(v, bool),
    ("batch_size",): lambda v: type(v) is int and v > 0,
    ("epsilon",): lambda v: _is_number(v) and v >= 0,
    ("step_size", "num_steps"): lambda v: v is None or _is_number(v),
    ("gamma",): lambda v: all(map(_is_number, v if isinstance(v, list) else [v])),
}


def read_run(folder: Path, defaults: Mapping[str, object] | None = None) -> dict:
    """Return the content of run.json; empty if there is none.

    Args:
        defaults: what the options meant that an earlier version did not have.

    Raises:
        ValueError: it is not a JSON object, or a value can't be what it says.
    """
    file = folder / RUN
    if not file.is_file():
        return {}
    try:
        run = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error})") from error
    if not isinstance(run, dict):
        raise ValueError(f"{file} is not a JSON object")
    for keys, accepts in READ_AGAIN.items():
        for key in keys:
            if key in run and not accepts(run[key]):
                raise ValueError(f"{file}: {key} can't be {reprlib.repr(run[key])}")
    options = dict(defaults or {}) | run.get("options", {})
    if not isinstance(options.get("arch", []), list):
        raise ValueError(f"{file}: the option arch can't be {options['arch']!r}, it is a list")
    return run | {"options": options}


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
) -> Iterator[Callable[[], None]]:
    """Prepare a folder for a run and keep other runs off it; rank 0 does so while others wait.

    What an interrupted run with the same settings left is kept, so that it can be resumed.

    Args:
        run: what is known of the run so far: its `options`, its `weights` and its `inputs`.
        overwrite: delete the images that another run left; without a run.json nothing is deleted.
        defaults: see `read_run`.

    Yields:
        a function to call before an image is attacked: a finished folder stays one until then.

    Raises:
        ValueError: another run is writing there, or one with other settings or inputs has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finished = False

    def begin() -> None:
        nonlocal finished
        if finished:
            write_run(folder, {"status": "running"} | run)
            finished = False

    with contextlib.nullcontext() if ranks.rank() else locked(folder):
        before = ranks.first(lambda: _prepared(folder, run, overwrite, defaults))
        finished = before.get("status") == "done"
        try:
            yield begin
        except BaseException as error:
            if not finished and ranks.rank() == 0:
                # What is wrong with the input will be wrong again.
                rest = "" if isinstance(error, ValueError) else ": the same command does the rest"
                logger.warning("%s is unfinished%s", folder, rest)
            raise


def _prepared(
    folder: Path, run: dict, overwrite: bool, defaults: Mapping[str, object] | None
) -> dict:
    """Prepare an output folder, and return what its run.json said before."""
    if overwrite and (folder / RUN).is_file():
        for file in [*folder.glob("*.png"), folder / LABELS, folder / RUN]:
            file.unlink(missing_ok=True)
    before = read_run(folder, defaults)
    _refuse_other_settings(folder, before, run)
    _refuse_other_inputs(folder, before.get("inputs", {}), run.get("inputs", {}))
    for part in folder.glob(".*.part"):  # left by a run that was killed
        part.unlink()
    if before.get("status") != "done":
        write_run(folder, {"status": "running"} | run)
    return before


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process; a ValueError if another run holds it."""
    with (folder / ".lock").open("a") as file:  # "w" would empty what a link leads to
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


def _refuse_other_inputs(folder: Path, before: dict[str, str], now: dict[str, str]) -> None:
    """Raise a ValueError if an image of the folder was made from another input.

    What an image was not made from yet may have changed: unreadable files are replaced.
    """
    for name, attacked in before.items():
        if now.get(name) == attacked or not (folder / name).is_file():
            continue
        change = "is not the image that was attacked"
        if name not in now:
            change = "was attacked, and is no longer among the input images"
        else:
            there, here = attacked.split()[:2], now[name].split()[:2]
            for what, old, new in zip(("label", "target class"), there, here, strict=False):
                if old != new:
                    change = f"has the {what} {new}, but was attacked with {old}"
        raise ValueError(
            f"{printable(name)} {change}, in {folder}: take another folder, or --overwrite to "
            "start afresh"
        )


def sha256(file: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def input_digests(listed: Sequence[LabelledImage], threads: int) -> dict[str, str]:
    """Return by name what is attacked: label, target class, and the file's SHA-256 shortened.

    The ranks share the work.
    """

    def digest(image: LabelledImage) -> str:
        content = "unreadable"
        with contextlib.suppress(OSError, ValueError):
            content = hashlib.sha256(read_content(image.path)).hexdigest()[:16]
        return f"{image.label} {image.target} {content}"

    own = ranks.share(listed)
    with ThreadPoolExecutor(max(1, threads)) as pool:
        found = dict(zip((image.name for image in own), pool.map(digest, own), strict=True))
    found = {name: text for part in ranks.gather(found) for name, text in part.items()}
    return {image.name: found[image.name] for image in listed}


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
