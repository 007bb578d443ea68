"""What a gradient evaluation costs in the attacks with more passes a step, beside PGD's.

    python benchmarks/bench_bases.py                      # ResNet-50, batch 8
    python benchmarks/bench_bases.py --arch efficientnet_b0 --bases SI BSR

Each attack and PGD run in a process each, in turn; medians of the ratios are printed. An evaluation
is a forward and a backward pass to the pixels, of which an attack's own are counted. Weights and
images are random; hooks are the formula's. Peak memory is what torch allocated on a GPU, and
elsewhere the process's largest resident memory. Needs what bench_attack.py needs.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

from bench_attack import ask, on_gpu

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

PGD = {"num_steps": 10}
BASES = {
    "NI": {"num_steps": 10, "momentum": 1, "nesterov": True},
    "SI": {"num_steps": 2, "momentum": 1, "scales": 5},
    "VMI": {"num_steps": 2, "momentum": 1, "variance": 9},
    "VNI": {"num_steps": 2, "momentum": 1, "variance": 9, "nesterov": True},
    "Admix": {"num_steps": 2, "momentum": 1, "admix": 3, "scales": 2},
    "BSR": {"num_steps": 2, "momentum": 1, "block_shuffle": 5},
    "logit": {"num_steps": 10, "loss": "logit"},
}


def main() -> None:
    args = get_parser().parse_args()
    if args.child:
        child(args)
        return
    print("| attack | an evaluation | beside PGD's | peak memory | beside PGD's |")
    print("|---|---|---|---|---|")
    for base in args.bases:
        measure(base, args)


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arch", default="resnet50", help="of torchvision")
    parser.add_argument("--gamma", type=float, default=0.5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7, help="attacks of each kind")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), default="tf32")
    parser.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    parser.add_argument("--pool", type=int, default=16, help="images that Admix draws from")
    parser.add_argument("--child", choices=("PGD", *BASES), help=argparse.SUPPRESS)
    return parser


def measure(base: str, args) -> None:
    """Run an attack and PGD in turn, and print a line."""
    children = {name: start(name, args) for name in ("PGD", base)}
    for process in children.values():
        process.stdout.readline()  # it is ready
    rounds = [
        {name: ask(process) for name, process in children.items()} for _ in range(args.rounds)
    ]
    ratio = statistics.median(each[base] / each["PGD"] for each in rounds)
    seconds = statistics.median(each[base] for each in rounds)
    memory = {name: float(p.communicate("\n")[0]) for name, p in children.items()}
    print(
        f"| {base} | {1000 * seconds:.3g} ms | {ratio:.3f} "
        f"| {memory[base]:.2f} GB | {memory[base] / memory['PGD']:.3f} |",
        flush=True,
    )


def start(name: str, args) -> subprocess.Popen:
    command = [sys.executable, __file__, "--child", name]
    for option in ("arch", "gamma", "batch_size", "precision", "pool"):
        command += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def child(args) -> None:
    """Attack at each line of input, and print how long an evaluation took; at an empty one end."""
    warnings.simplefilter("ignore")
    os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # as the scripts do, before torch is there
    import torch

    attack, counted = prepare(args)
    synchronize = torch.cuda.synchronize if on_gpu() else lambda: None
    print("ready", flush=True)
    while sys.stdin.readline().strip():
        attack()  # the first time, and after another process's work, it is slow
        counted.clear()
        synchronize()
        begin = time.perf_counter()
        attack()
        synchronize()
        print((time.perf_counter() - begin) / len(counted), flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if on_gpu():
        memory = torch.cuda.max_memory_allocated()
    print(json.dumps(memory / 1e9))


def prepare(args):
    """Return a function that makes the attack, and a list that gets longer with each evaluation."""
    import torch
    import torchvision

    from suite.attack.loop import GradientAttack
    from suite.attack.pool import Pool
    from suite.attack.settings import Attack
    from suite.attack.sources import Source
    from suite.networks.classifier import Classifier
    from suite.networks.libraries import NetworkSpec
    from suite.running import devices

    device = devices.choose_device(False, args.precision)
    torch.manual_seed(0)
    spec = NetworkSpec(None, (3, 224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), None)
    model = Classifier(torchvision.models.get_model(args.arch), spec, None)
    model.accelerate(args.precision).to(device)
    Source(model, args.gamma, "branch", name=args.arch).register_sgm()
    counted = []
    model.register_forward_pre_hook(
        lambda *_: counted.append(1) if torch.is_grad_enabled() else None
    )
    pool = torch.randint(0, 256, (args.pool, 3, 224, 224), dtype=torch.uint8, device=device)
    attack = GradientAttack(
        Attack(**(BASES | {"PGD": PGD})[args.child]),
        [model],
        Pool(pool, torch.arange(args.pool, device=device)) if args.child == "Admix" else None,
    )
    pixels = torch.rand(args.batch_size, 3, 224, 224).to(device)
    labels = torch.arange(args.batch_size, device=device)
    return lambda: attack.perturb(pixels, labels), counted


if __name__ == "__main__":
    main()
