"""How fast a GPU is: see gpu.py. Each function is a measurement."""

import argparse
import contextlib
import math
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import bench_attack
import torch
from gpu_shared import (
    GPU,
    attack_command,
    choose_device,
    head,
    load,
    make_attack,
    make_images,
    row,
)
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from suite.networks.classifier import Classifier

LAYOUTS = {"channels_last": torch.channels_last, "default": torch.contiguous_format}
TIMED = 2  # steps of an attack of which the time is taken
KERNELS = 20


def step(args) -> None:
    """Attack steps of this suite in both layouts, and what share of the device's peaks they reach.

    The peaks are a large matrix product's speed in the same precision, and the speed at which a
    gibibyte is copied. A step's operations are those of a forward pass, and of a backward pass to
    the pixels, as torch counts them; its bytes are those that torch's operations read and write.
    """
    copied = torch.empty(2**28).to(choose_device("fp32"))
    bandwidth = 2 * copied.nbytes / alternated([copied.clone], args.rounds)[0]
    print(f"- peak of the memory: {bandwidth / 1e9:.0f} GB/s", flush=True)
    del copied
    peaks = {}
    for precision in args.precisions:
        work, operations = bench_attack.matrix_product(argparse.Namespace(precision=precision))
        choose_device(precision)
        peaks[precision] = operations / alternated([work], args.rounds)[0]
        print(f"- peak in {precision}: {peaks[precision] / 1e12:.3g} TFLOP/s", flush=True)
    print()
    speeds = "TFLOP/s", "of the peak", "GB/s", "of the memory's"
    head("network", "precision", "layout", "ms/step", "images/s of 1 step", *speeds)
    batch = args.batch_sizes[0]
    for arch in args.archs:
        operations = batch * _operations(load(args, arch))
        for precision in args.precisions:
            works = [attack_of(args, arch, precision, layout, TIMED) for layout in LAYOUTS.values()]
            times = alternated(works, args.rounds)
            for layout, work, seconds in zip(LAYOUTS, works, times, strict=True):
                seconds /= TIMED
                speed = operations / seconds
                with Traffic() as traffic:
                    work()
                moved = traffic.bytes / TIMED / seconds
                cells = f"{1000 * seconds:.1f}", f"{batch / seconds:.1f}", f"{speed / 1e12:.3g}"
                shares = [f"{100 * s:.0f} %" for s in (speed / peaks[precision], moved / bandwidth)]
                row(arch, precision, layout, *cells, shares[0], f"{moved / 1e9:.0f}", shares[1])


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write; a kernel inside one may move more."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        returned = [r.alias_info for r in function._schema.returns]
        views = any(alias and not alias.is_write for alias in returned)
        if not views and "empty" not in function._schema.name:
            found = {id(x): x for x in tree_leaves((args, kwargs, result)) if torch.is_tensor(x)}
            self.bytes += sum(_bytes(x) for x in found.values())
        return result


def _bytes(tensor: torch.Tensor) -> int:
    lengths = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * math.prod(length for length, stride in lengths if stride)


def attack_of(args, arch: str, precision: str, layout, steps: int) -> Callable[[], object]:
    device = choose_device(precision)
    model = load(args, arch).accelerate(precision).to(memory_format=layout).to(device)
    attack = make_attack(model, arch, steps)
    torch.manual_seed(0)
    pixels = torch.rand(args.batch_sizes[0], 3, 224, 224).to(device)
    labels = torch.arange(len(pixels)).to(device)
    return lambda: attack.perturb(pixels, labels)


def _operations(model: Classifier) -> int:
    with FlopCounterMode(display=False) as counter:
        model(torch.rand(1, 3, 224, 224, requires_grad=True)).sum().backward()
    return counter.get_total_flops()


def alternated(works: list[Callable[[], object]], rounds: int) -> list[float]:
    """Return the median seconds of each work; they take turns, the first one not timed."""
    times = [[seconds_of(work) for work in works] for _ in range(rounds + 1)]
    return [statistics.median(each) for each in zip(*times[1:], strict=True)]


def seconds_of(work: Callable[[], object]) -> float:
    synchronize()
    begin = time.perf_counter()
    work()
    synchronize()
    return time.perf_counter() - begin


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def profile(args) -> None:
    """One attack step, by what torch.profiler sees of it: kernels by their time on the GPU.

    On a CPU: operators by their own time there.
    """
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * GPU
    for arch in args.archs:
        for precision in args.precisions:
            work = attack_of(args, arch, precision, torch.channels_last, 1)
            work()
            seconds = seconds_of(work)
            with torch.profiler.profile(activities=activities) as profiled:
                seconds_of(work)
            found = [
                (event.self_device_time_total if GPU else event.self_cpu_time_total, event)
                for event in profiled.key_averages()
                if not GPU or event.device_type == DeviceType.CUDA
            ]
            total = sum(taken for taken, _ in found)
            print(
                f"\n{arch}, {precision}, batch {args.batch_sizes[0]}: {1000 * seconds:.1f} ms "
                f"without the profiler; {len(found)} kinds take {total / 1000:.1f} ms.\n"
            )
            head("ms", "share", "calls", "kernel" if GPU else "operator")
            for taken, event in sorted(found, key=lambda pair: -pair[0])[:KERNELS]:
                name = event.key.replace("|", "/")[:120]
                row(f"{taken / 1000:.2f}", f"{100 * taken / total:.1f} %", event.count, f"`{name}`")


class BusyShare:
    """Asks again and again in what share of the last moment kernels ran on the GPU."""

    def __init__(self):
        self.samples: list[tuple[float, float]] = []
        self.source, self.ask = _utilization()
        if self.ask:
            threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.samples.append((time.time(), self.ask()))
            time.sleep(0.2)

    def between(self, begin: float, end: float) -> str:
        inside = [share for at, share in self.samples if begin <= at <= end]
        return f"{statistics.mean(inside):.0f} %" if inside else "-"


def _utilization() -> tuple[str, Callable[[], float] | None]:
    """Return how the GPU can be asked, in words, and a function that does it."""
    if not GPU:
        return "no GPU", None
    command = "nvidia-smi --id=0 --query-gpu=utilization.gpu --format=csv,noheader,nounits"
    for words, ask in {
        "torch.cuda.utilization": lambda: torch.cuda.utilization(0),
        "nvidia-smi": lambda: float(subprocess.check_output(command.split())),
    }.items():
        with contextlib.suppress(Exception):  # no pynvml, no nvidia-smi, or it has no rights
            ask()
            return words, ask
    return "neither pynvml nor nvidia-smi answers", None


def runs(args) -> None:
    """Whole runs of attack_iter.py at the default precision.

    "Attacking" is what comes after imports and the making of networks: from then on the images a
    second and the share of the time in which the GPU worked are counted.
    """
    busy = BusyShare()
    print(f"The share of the time is from: {busy.source}.\n")
    head("network", "batch", "images", "whole run", "attacking", "images/s", "busy", "its log says")
    natural = make_images(args, args.num_images)
    for arch in args.archs:
        for batch in args.batch_sizes:
            folder = args.folder / "timed"
            shutil.rmtree(folder, ignore_errors=True)
            command = attack_command(args, arch, natural, folder, "--batch-size", batch)
            seconds, begin, end, said = _timed(command, folder)
            spans = f"{seconds:.1f} s", f"{end - begin:.1f} s"
            speed = f"{args.num_images / (end - begin):.1f}"
            row(arch, batch, args.num_images, *spans, speed, busy.between(begin, end), said)


def _timed(command: list[str], folder: Path) -> tuple[float, float, float, str]:
    """Run an attack; return its seconds, when it had made its folder, its end, and its last log."""
    log = folder.with_suffix(".log")
    start, begin = time.time(), None
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
        while process.poll() is None:
            if begin is None and (folder / "run.json").is_file():
                begin = time.time()
            time.sleep(0.01)
    end, lines = time.time(), log.read_text().splitlines()
    if process.returncode:
        sys.exit(f"{' '.join(command)}\n{log.read_text()}")
    said = [line for line in lines if "waits for" in line]
    return end - start, begin or start, end, said[-1] if said else "-"


def levers(args) -> None:
    """bench_attack.py: the released code's way, and what each lever gives, by precision."""
    for precision in args.precisions:
        print(f"\n{precision}, batch {args.batch_sizes[0]}:\n", flush=True)
        options = ["--levers", "--arch", *args.archs, "--precision", precision]
        options += ["--batch-size", str(args.batch_sizes[0]), "--rounds", str(args.rounds)]
        subprocess.run([sys.executable, bench_attack.__file__, *options], check=True)


def pipeline(args) -> None:
    """bench_pipeline.py: an attack on the first network, and evaluations, from PNG to PNG."""
    script = Path(bench_attack.__file__).with_name("bench_pipeline.py")
    options = ["--arch", args.archs[0], "--num-steps", str(args.steps)]
    for option in ("--num-images", "--num-evaluated"):
        options += [option, str(args.num_images)]
    subprocess.run([sys.executable, script, *options], check=True)
