"""Whole runs, from PNG to PNG: images per second, and how long the network is busy.

    python benchmarks/bench_pipeline.py                   # a few minutes on two cores
    python benchmarks/bench_pipeline.py --arch resnet152 densenet201 --num-images 1000

Runs attack_iter.py on torchvision's networks with random weights and images of noise that it makes
itself, and evaluate.py on 1000 PNGs, with three targets at once and one by one. Needs torch,
torchvision, advertorch, safetensors, tqdm, scipy, numpy and Pillow.
"""

import argparse
import json
import resource
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
TARGETS = ("resnet18", "mobilenet_v2", "squeezenet1_1")


def main() -> None:
    # What comes after the name of a script is for the script.
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
        return
    args = get_parser().parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arch", nargs="+", default=["resnet50"], help="sources")
    parser.add_argument("--num-images", type=int, default=64, help="for the attack")
    parser.add_argument("--num-evaluated", type=int, default=1000)
    parser.add_argument("--num-steps", type=int, default=10)
    parser.add_argument("--options", default="", help="further ones of the scripts, in one word")
    return parser


def measure(folder: Path, args) -> None:
    make_images(folder / "few", args.num_images)
    make_images(folder / "many", args.num_evaluated)
    for arch in {*args.arch, *TARGETS}:
        make_weights(arch, folder)
    print("| run | images | seconds | images/s | to the first pass | busy | peak memory |")
    print("|---|---|---|---|---|---|---|")
    for arch in args.arch:
        attack = f"--input-dir {folder / 'few'} --output-dir {folder / arch} --gamma 0.5"
        attack += f" --num-steps {args.num_steps} {args.options}"
        run(f"attack_iter.py, {arch}", "attack_iter.py", attack, [arch], folder, args.num_images)
    evaluation = f"--input-dir {folder / 'many'} {args.options}"
    seconds = [
        run(f"evaluate.py, {' '.join(a)}", "evaluate.py", evaluation, a, folder, args.num_evaluated)
        for a in (TARGETS, *([arch] for arch in TARGETS))
    ]
    ratio = seconds[0] / sum(seconds[1:])
    print(f"\nThree targets in one run take {ratio:.2f} of the time of three runs.")


def make_images(folder: Path, number: int) -> None:
    """Make images that PNG can't shrink less than real ones: coarse noise, enlarged."""
    import numpy as np
    import PIL.Image

    folder.mkdir()
    noise = np.random.default_rng(0)
    rows = ["filename,label"]
    for index in range(number):
        coarse = noise.integers(0, 256, (56, 56, 3), dtype=np.uint8)
        picture = PIL.Image.fromarray(coarse).resize((224, 224), PIL.Image.Resampling.BICUBIC)
        picture.save(folder / f"{index:05}.png")
        rows.append(f"{index:05}.png,{noise.integers(1000)}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")


def make_weights(arch: str, folder: Path) -> None:
    import torch
    import torchvision

    torch.manual_seed(0)
    torch.save(torchvision.models.get_model(arch).state_dict(), folder / f"{arch}.pth")


def run(what: str, script: str, options: str, archs: list[str], folder: Path, images: int) -> float:
    """Run a script, print a line of the table, and return how many seconds it took."""
    names = [f"torchvision/{arch}" for arch in archs]
    files = [f"torchvision/{arch}={folder / arch}.pth" for arch in archs]
    begin = time.time()
    command = [sys.executable, __file__, "--child", str(begin), script, *options.split()]
    command += ["--arch", *names, "--checkpoint", *files]
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.time() - begin
    if done.returncode:
        sys.exit(f"{what} failed:\n{done.stderr}")
    seen = json.loads(done.stdout.splitlines()[-1])
    print(
        f"| {what} | {images} | {seconds:.1f} | {images / (seconds - seen['first']):.1f} | "
        f"{seen['first']:.1f} s | {100 * seen['busy']:.0f} % | {seen['memory']:.2f} GB |",
        flush=True,
    )
    return seconds


def child(arguments: list[str]) -> None:
    """Run a script with a clock around each attack and each prediction; print what it showed."""
    begin, *arguments = arguments
    sys.path.insert(0, str(ROOT))
    import torch

    from suite.attack.loop import GradientAttack
    from suite.attack.sources import Sources
    from suite.results.targets import Targets

    clock = {"busy": 0.0, "first": None}

    def clocked(function):
        def call(*args, **kwargs):
            start = time.time()
            result = function(*args, **kwargs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            clock["first"] = clock["first"] or start
            clock["busy"] += time.time() - start
            return result

        return call

    for owner, method in ((GradientAttack, "run"), (Sources, "logits"), (Targets, "logits")):
        setattr(owner, method, clocked(getattr(owner, method)))
    sys.argv = arguments
    runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
    end = time.time()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.cuda.is_available():
        memory = torch.cuda.max_memory_allocated()
    busy, first = clock["busy"] / (end - clock["first"]), clock["first"] - float(begin)
    print(json.dumps({"busy": busy, "first": first, "memory": memory / 1e9}))


if __name__ == "__main__":
    main()
