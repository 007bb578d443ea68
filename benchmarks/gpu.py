"""All that is to be measured on a machine with one GPU, in calls of nine minutes each.

    python benchmarks/gpu.py --part right --packages FOLDER     # are the results right?
    python benchmarks/gpu.py --part fast --packages FOLDER      # how fast is it?
    python benchmarks/gpu.py --part fused --packages FOLDER     # would other ways be faster?
    python benchmarks/gpu.py --only runs levers --packages FOLDER

Writes gpu_results/NAME.md for each measurement, line by line as they come, and prints it. Needs no
network; torch, torchvision, safetensors, tqdm, scipy, numpy and Pillow, and a folder that has
advertorch and nothing else if that is not installed. Without a GPU all of it runs on the CPU, for a
trial with small numbers.
"""

import argparse
import contextlib
import importlib
import importlib.util
import inspect
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
# In the order in which they are made: what takes long, and is least missed, comes last.
PARTS = {
    "right": ("first_step", "repeat", "resume", "tests"),
    "fast": ("step", "profile", "runs", "levers", "pipeline"),
    "fused": ("ways",),
}
DEFAULT = ["right", "fast"]
NAMES = [name for names in PARTS.values() for name in names]
SHORTEST = 20  # seconds; with fewer left no measurement is begun


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    # fmt: off
    add = parser.add_argument
    add("--part", nargs="+", choices=PARTS, default=DEFAULT,
        help="right and fast if absent")
    add("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME",
        help=f"measurements of the part: {', '.join(NAMES)}")
    add("--minutes", type=float, default=9, help="after which no more is begun, and all ends")
    add("--output", type=Path, default=Path("gpu_results"), help="folder of the results")
    add("--packages", type=Path, help="folder that has advertorch and nothing else")
    add("--archs", nargs="+", default=["resnet152", "densenet201"], help="torchvision's names")
    add("--images", type=int, default=64, help="of which results are compared")
    add("--num-images", type=int, default=1024, help="of a run that is timed")
    add("--batch-sizes", nargs="+", type=int, default=[64, 128, 256],
        help="of runs that are timed; the first one also of steps")
    add("--steps", type=int, default=10, help="of a run")
    add("--rounds", type=int, default=5, help="times that a step is timed")
    add("--precisions", nargs="+", choices=("fp32", "tf32", "bf16"),
        default=["tf32", "bf16", "fp32"])
    add("--measure", choices=NAMES, help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    # fmt: on
    return parser


def main() -> None:
    parser = get_parser()
    args = parser.parse_args()
    if args.measure:
        measure(args)
        return
    names = [name for part in args.part for name in PARTS[part] if name in args.only]
    if not names:
        parser.error("none of --only is in --part")
    if args.packages:
        sys.path.insert(0, str(args.packages.resolve()))
    if not importlib.util.find_spec("advertorch"):
        parser.error("advertorch is not there: name a folder that has it with --packages")
    args.output.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    outcomes = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            seconds = end - time.monotonic()
            if seconds < SHORTEST:
                outcomes[name] = "not begun"
            else:
                outcomes[name] = run(name, seconds, Path(folder), args)
    for name, outcome in outcomes.items():
        print(f"{name}: {outcome}")
    left = [name for name, outcome in outcomes.items() if outcome in ("not begun", "unfinished")]
    if left:
        print(f"{args.minutes:g} minutes were over: the rest is --only {' '.join(left)}")
    sys.exit("failed" in outcomes.values())


def run(name: str, seconds: float, folder: Path, args) -> str:
    """Make a measurement in a process of its own, for so many seconds; return how that ended."""
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", name, "--folder", str(folder)]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    if args.packages:
        paths = [str(args.packages.resolve()), os.environ.get("PYTHONPATH")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    begin = time.monotonic()
    with (args.output / f"{name}.md").open("w") as file, (folder / "errors").open("w+") as errors:

        def say(line: str) -> None:
            for stream in (sys.stdout, file):
                print(line, file=stream, flush=True)

        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            process_group=0,  # so that it ends with all that it started
        )
        timer = threading.Timer(seconds, end_group, [process.pid])
        timer.start()
        try:
            for line in process.stdout:
                say(line.rstrip("\n"))
            status = process.wait()
        finally:
            timer.cancel()
            end_group(process.pid)
        took = time.monotonic() - begin
        outcome = {0: "done"}.get(status, "unfinished" if took >= seconds else "failed")
        if outcome == "failed":
            errors.seek(0)
            say("\n```\n" + "".join(errors.readlines()[-30:]) + "```")
        say(f"\n{name}: {outcome} after {took:.0f} s.\n")
    return f"{outcome} after {took:.0f} s" if outcome == "done" else outcome


def end_group(number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(number, signal.SIGKILL)


def measure(args) -> None:
    """Make a measurement in this process, and print what comes out."""
    sys.path.insert(0, str(ROOT))
    part = next(part for part, names in PARTS.items() if args.measure in names)
    function = getattr(importlib.import_module(f"gpu_{part}"), args.measure)
    shared = importlib.import_module("gpu_shared")
    print(f"# {args.measure}\n\n{inspect.getdoc(function)}\n\n{shared.machine()}\n")
    function(args)


if __name__ == "__main__":
    main()
